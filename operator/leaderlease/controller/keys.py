"""Hands the API server's public keys to the quorums, so that nodes verify ServiceAccount tokens without asking it."""

import logging
from collections.abc import Sequence

import msgspec

from leaderlease.controller.api import Api
from leaderlease.controller.quorums import QuorumLink
from leaderlease.errors import LeaderLeaseError

logger = logging.getLogger("leaderlease.operator.keys")


async def hand_over_keys(api: Api, links: Sequence[QuorumLink], audience: str, handed: dict[str, bytes]) -> None:
    """Write the keys to every quorum that this process has not given them to yet.

    Args:
        api: The API server whose keys they are.
        links: The quorums.
        audience: That tokens must be made for.
        handed: Quorum name -> what it was given; is brought up to date.
    """
    try:
        found = msgspec.json.decode(await api.raw("/.well-known/openid-configuration"))
        jwks = await api.raw("/openid/v1/jwks")
    except (LeaderLeaseError, msgspec.DecodeError) as error:
        logger.warning("the API server's keys cannot be read: %s", error)
        return
    for link in links:
        if link.client is None or handed.get(link.name) == jwks:
            continue
        try:
            await link.client.set_keys(found["issuer"], audience, jwks)
        except LeaderLeaseError as error:
            logger.warning("quorum %s: did not take the keys: %s", link.name, error)
        else:
            handed[link.name] = jwks
            logger.info("quorum %s: has the API server's keys", link.name)
