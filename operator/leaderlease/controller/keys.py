"""Hands the API server's public keys to the quorums, so that nodes verify ServiceAccount tokens without asking it."""

import logging
from collections.abc import Sequence

import msgspec

from leaderlease.controller.api import Api
from leaderlease.controller.quorums import QuorumLink
from leaderlease.errors import LeaderLeaseError

logger = logging.getLogger("leaderlease.operator.keys")


Handed = dict[str, tuple[bytes, frozenset[str]]]
"""Quorum name -> what it was given, and its members then: a quorum that was made anew has nothing of it."""


async def hand_over_keys(api: Api, links: Sequence[QuorumLink], audience: str, handed: Handed) -> None:
    """Write the keys to every quorum that this process has not given them to yet.

    Args:
        api: The API server whose keys they are.
        links: The quorums.
        audience: That tokens must be made for.
        handed: What was given before; is brought up to date.
    """
    try:
        found = msgspec.json.decode(await api.raw("/.well-known/openid-configuration"))
        jwks = await api.raw("/openid/v1/jwks")
    except (LeaderLeaseError, msgspec.DecodeError) as error:
        logger.warning("the API server's keys cannot be read: %s", error)
        return
    for link in links:
        known, members = handed.get(link.name, (b"", link.members))
        if link.client is None or (known == jwks and members & link.members):
            continue
        try:
            await link.client.set_keys(found["issuer"], audience, jwks)
        except LeaderLeaseError as error:
            logger.warning("quorum %s: did not take the keys: %s", link.name, error)
        else:
            handed[link.name] = (jwks, link.members)
            logger.info("quorum %s: has the API server's keys", link.name)
