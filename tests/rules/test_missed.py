"""R5, H21: what a restarted member must refuse to store (its ceiling) and has to know: declarations and keys."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from leaderlease.node.auth import KEYS_KEY, Authenticator, encode_keys
from leaderlease.node.missed import READ_AFTER_MS, READS_MAX
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Value
from leaderlease.paxos.messages import Accept, Peek
from leaderlease.wire.session import Failed, Granted, Spec
from support.core import ALICE, BOB
from support.nodes import KEY, NAME, Cluster

PUBLIC = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
JWKS = json.dumps({"keys": [{**PUBLIC, "kid": "k1"}]}).encode()
OLD, NEW = Spec(60_000), Spec(60_000, identities=("alice",))


def _declare(cluster: Cluster, spec: Spec) -> None:
    ends: list[str] = []
    cluster[1].sessions.specs.declare(NAME, spec, lambda term, code, text: ends.append(code))
    cluster.run(100)
    assert ends == [""]


def test_a_node_that_was_away_admits_by_what_was_declared_meanwhile() -> None:
    """Its disk may not take the copy, for it may have promised more: it reads a majority, and refuses Bob by that."""
    cluster = Cluster()
    _declare(cluster, OLD)
    cluster.crash(3)
    _declare(cluster, NEW)
    cluster.restart(3)
    cluster.run(1_000)
    assert cluster[3].sessions.specs.declared == {NAME: NEW}
    bob = cluster[3].client("bob")
    bob.acquire(BOB)
    cluster.run(1_000)
    assert [answer.code for answer in bob.got(Failed)] == ["refused"]
    assert not bob.got(Granted)
    register = cluster[3].register("s/" + NAME)
    assert register.accepted.counter == 1, "the acceptor is not touched: what it promised it keeps"


def _bring(cluster: Cluster, issuer: str) -> None:
    ends: list[str] = []
    body = encode_keys(issuer, "leaderlease", JWKS)
    cluster[1].sessions.specs.write(KEYS_KEY, body, lambda term, code, text: ends.append(code))
    cluster.run(100)
    assert ends == [""]


def test_a_node_that_was_away_verifies_with_the_keys_that_were_brought_meanwhile() -> None:
    """R5: as with declarations; its disk goes on holding the old ones."""
    cluster = Cluster()
    _bring(cluster, "the old issuer")
    cluster.crash(3)
    _bring(cluster, "the new issuer")
    cluster.restart(3)
    authenticator = Authenticator(cluster[3].driver, "tokens")
    for issuer in ("the old issuer", "the new issuer"):
        assert authenticator._keys is not None
        assert authenticator._keys.issuer == issuer
        cluster.run(1_000)
    assert cluster[3].register(KEYS_KEY).accepted.counter == 1


def test_a_read_that_began_before_newer_keys_came_brings_the_old_ones_not_back() -> None:
    """H21: a key that was taken away admits nobody again, whatever a read says that was under way meanwhile."""
    cluster = Cluster()
    _bring(cluster, "the old issuer")
    register = cluster[3].register(KEYS_KEY)
    assert register.value is not None
    ballot, value = register.accepted, register.value
    authenticator = Authenticator(cluster[3].driver, "tokens")
    _bring(cluster, "the new issuer")
    for call in cluster[3].driver.on_found:
        call(KEYS_KEY, ballot, value)
    assert authenticator._keys is not None
    assert authenticator._keys.issuer == "the new issuer"


def test_a_declaration_that_a_restarted_node_refuses_is_known_there_all_the_same() -> None:
    """It is there when it is written, and its ceiling is above the ballot: candidates that wait there are told."""
    cluster = Cluster()
    _declare(cluster, OLD)
    cluster[2].client("alice").acquire(ALICE, duration_ms=60_000)
    cluster.run(100)
    cluster.restart(3)
    cluster.run(1_000)
    bob = cluster[3].client("bob")
    bob.acquire(BOB)
    cluster.run(10)
    cluster[1].driver.proposer.counter = 5
    _declare(cluster, NEW)
    assert cluster[3].sessions.specs.declared == {NAME: OLD}
    cluster.run(1_000)
    assert cluster[3].sessions.specs.declared == {NAME: NEW}
    assert [answer.code for answer in bob.got(Failed)] == ["refused"]


def test_what_was_refused_and_never_chosen_is_looked_for_some_times_only() -> None:
    """Nor is a lease looked for: its renewals move it to a higher ballot."""
    cluster = Cluster()
    cluster.restart(3)
    asked: list[str] = []

    def listen(source: str, target: str, message: Any) -> bool:
        if isinstance(message, Peek) and source == "3" and target == "1":
            asked.append(message.key)
        return False

    cluster.holds = listen
    cluster[3].driver.acceptor.registers.clear()
    value = Value(1, None, None, 0, 0, b"x")
    for key in ("s/" + NAME, KEY):
        cluster[3].driver.acceptor._register(key).promised = Ballot(90, "3", 1)
        cluster[3].driver.on_message("1", Accept(1, key, Ballot(7, "1", 1), value))
    cluster.run(READ_AFTER_MS << (READS_MAX + 2))
    assert asked == ["s/" + NAME] * READS_MAX
