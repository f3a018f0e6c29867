"""Who a client is and what it may do: real keys, real tokens, and a quorum that verifies them over TLS."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

import leaderlease
from leaderlease.cli.local import LocalQuorum
from leaderlease.errors import ConfigError
from leaderlease.node.auth import ADMIN, Authenticator, Keys, Principal, admission_refusal, encode_keys, refusal
from leaderlease.paxos.ballot import Ballot
from leaderlease.paxos.lease import Holder
from leaderlease.wire import session as wire
from leaderlease.wire.codec import PEER

ISSUER = "https://kubernetes.default.svc.cluster.local"
NOW_S = 1_800_000_000.0
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
POD = Principal(False, "shop", "billing", "billing-1", "uid-1")
ALICE = Holder("billing-1", "uid-1", "a" * 32)


def jwks(**keys: Any) -> bytes:
    """Return a key set with the public halves."""
    found = []
    for kid, key in keys.items():
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        found.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid})
    return json.dumps({"keys": found}).encode()


def token(key: Any = KEY, kid: str = "k1", algorithm: str = "RS256", now_s: float = NOW_S, **changes: Any) -> str:
    """Return a token as the API server projects it into the pod billing-1."""
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": ["leaderlease"],
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + 3600,
        "kubernetes.io": {
            "namespace": "shop",
            "serviceaccount": {"name": "billing", "uid": "sa-uid"},
            "pod": {"name": "billing-1", "uid": "uid-1"},
        },
    }
    claims |= changes
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm, headers={"kid": kid})


class NoRegisters:
    """As much of a driver as an authenticator without keys looks at."""

    def __init__(self) -> None:
        self.acceptor = self
        self.registers: dict[str, Any] = {}
        self.on_installed: list[Any] = []
        self.on_found: list[Any] = []


def authenticator(mode: str = "tokens", wall_s: float = NOW_S, **keys: Any) -> Authenticator:
    """Return one that has these keys."""
    made = Authenticator(NoRegisters(), mode, lambda: wall_s)  # type: ignore[arg-type]
    if keys:
        made._take(Ballot(1, "1", 1), leaderlease_value(encode_keys(ISSUER, "leaderlease", jwks(**keys))))
    return made


def leaderlease_value(body: bytes) -> Any:
    """Return the agreed value with this body."""
    from leaderlease.paxos.lease import Value

    return Value(1, None, None, body=body)


def hello(text: str = "") -> wire.Hello:
    """Return a client's hello with a token."""
    return wire.Hello("client", 1, 1, token=text)


def test_an_open_quorum_takes_everybody_as_administrator() -> None:
    """The local quorum on a laptop asks for nothing."""
    assert authenticator("open").identify(hello(), False) == ADMIN


def test_a_certificate_of_the_authority_makes_an_administrator() -> None:
    """TLS has verified it already."""
    assert authenticator().identify(hello(), True) == ADMIN


@pytest.mark.parametrize(("key", "algorithm"), [(KEY, "RS256"), (KEY, "RS512"), (CURVE, "ES256")])
def test_a_projected_token_names_its_pod(key: Any, algorithm: str) -> None:
    """Namespace, service account, pod and uid come from the token and from nothing else."""
    assert authenticator(k1=key).identify(hello(token(key, algorithm=algorithm)), False) == POD


def test_no_token_and_no_keys_are_told_apart() -> None:
    """The first is the client's fault, the second the operator's."""
    assert "wants a ServiceAccount token" in str(authenticator(k1=KEY).identify(hello(), False))
    assert "no keys have reached this node" in str(authenticator().identify(hello(token()), False))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (token(OTHER), "Signature verification failed"),
        (token(kid="k9"), "signed with key 'k9', which this node does not have"),
        (token(exp=NOW_S - 61), "expired 61 s ago"),
        (token(nbf=NOW_S + 61), "valid only in 61 s"),
        (token(aud=["https://kubernetes.default.svc"]), "Audience doesn't match"),
        (token(aud=None), "missing the \"aud\" claim"),
        (token(iss="https://elsewhere"), "Invalid issuer"),
        (token(exp=None), "missing the \"exp\" claim"),
        (token(**{"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "a"}}}), "not bound to a pod"),
        (token(**{"kubernetes.io": None}), "not bound to a pod"),
        ("nonsense", "Not enough segments"),
        ("x" * 20_000, "20000 bytes, at most 16384"),
        (jwt.encode({"iss": ISSUER}, "s" * 64, "HS256", headers={"kid": "k1"}), "alg value is not allowed"),
        (jwt.encode({"iss": ISSUER}, None, "none", headers={"kid": "k1"}), "alg value is not allowed"),
    ],
)  # fmt: skip
def test_a_token_that_proves_nothing_is_refused_with_its_reason(text: str, why: str) -> None:
    """Wrong key, time, audience or issuer, no pod, no token at all, or an algorithm that anybody can forge."""
    answer = authenticator(k1=KEY).identify(hello(text), False)
    assert isinstance(answer, str)
    assert answer.startswith("token: ")
    assert why in answer


def test_clocks_may_be_off_by_the_leeway() -> None:
    """A node whose wall clock is a little ahead takes a token that has just expired."""
    assert authenticator(k1=KEY).identify(hello(token(exp=NOW_S - 59)), False) == POD


def test_rotated_keys_overlap() -> None:
    """While the set has both, tokens of both are good; when the old one has gone, its tokens are not."""
    both, new = authenticator(k1=KEY, k2=OTHER), authenticator(k2=OTHER)
    old_token, new_token = token(), token(OTHER, kid="k2")
    assert both.identify(hello(old_token), False) == both.identify(hello(new_token), False) == POD
    assert new.identify(hello(new_token), False) == POD
    assert "does not have" in str(new.identify(hello(old_token), False))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "no JSON web key set"),
        (b'{"keys": "\xd4"}', "no JSON web key set"),
        (b"[" * 10_000, "no JSON web key set"),
        (b"[]", "no JSON web key set"),
        (b'{"keys": []}', "no JSON web key set"),
        (b'{"keys": [{"kty": "RSA"}]}', "no JSON web key set"),
        (jwks(**{"": KEY}), "each key needs a kid"),
        (b" " * (256 * 1024 + 1), "at most 262144"),
    ],
)
def test_keys_that_verify_nothing_are_refused(body: bytes, why: str) -> None:
    """Before they are written, so no node ever has to cope with them."""
    with pytest.raises(ConfigError, match=why):
        encode_keys(ISSUER, "leaderlease", body)
    with pytest.raises(ConfigError, match="must not be empty"):
        encode_keys("", "leaderlease", jwks(k1=KEY))


def test_what_is_written_can_be_read() -> None:
    """Issuer, audience and keys come back."""
    import msgspec

    keys = msgspec.json.decode(encode_keys(ISSUER, "leaderlease", jwks(k1=KEY)), type=Keys)
    assert (keys.issuer, keys.audience, [key["kid"] for key in keys.jwks["keys"]]) == (ISSUER, "leaderlease", ["k1"])


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (wire.AcquireRequest(1, 1, "shop/lock", ALICE, 0, True), ""),
        (wire.AcquireRequest(1, 1, "bank/lock", ALICE, 0, True), "own namespace only"),
        (wire.AcquireRequest(1, 1, "shopping/lock", ALICE, 0, True), "own namespace only"),
        (wire.AcquireRequest(1, 1, "shop/lock", Holder("x", "uid-2", "a" * 32), 0, True), "is not that of"),
        (wire.ReleaseRequest(1, "shop/lock", "a" * 32), ""),
        (wire.ReleaseRequest(1, "bank/lock", "a" * 32), "own namespace only"),
        (wire.GetRequest(1, "shop/lock"), ""),
        (wire.GetRequest(1, "bank/lock"), "own namespace only"),
        (wire.VerifyRequest(1, "bank/lock", 1), "own namespace only"),
        (wire.StepDownRequest(1, "bank/lock"), "own namespace only"),
        (wire.ListRequest(1, "shop/"), ""),
        (wire.ListRequest(1, ""), "all leases: shop/billing-1"),
        (wire.ListRequest(1, "shop"), "own namespace only"),
        (wire.WatchRequest(1, "shop/", False), ""),
        (wire.WatchRequest(1, "", False), "own namespace only"),
        (wire.DeclareRequest(1, "shop/lock", None), "only an administrator"),
        (wire.RevokeRequest(1, "shop/lock", 1), "only an administrator"),
        (wire.KeysRequest(1, ISSUER, "leaderlease", b""), "only an administrator"),
        (wire.SpecsRequest(1, "shop/"), "only an administrator"),
        (wire.KeepAlive(1), ""),
        (wire.StatusRequest(1), ""),
    ],
)
def test_a_pod_may_do_what_concerns_its_own_namespace_and_itself(message: Any, why: str) -> None:
    """An administrator may do all of it."""
    answer = refusal(POD, message)
    assert why in answer
    assert bool(answer) == bool(why)
    assert refusal(ADMIN, message) == ""


def test_a_lease_admits_the_service_accounts_and_pods_that_were_declared() -> None:
    """Empty and None admit all of the namespace; an empty list of pods admits nobody."""
    admits = lambda **spec: admission_refusal(POD, "shop/lock", wire.Spec(3000, **spec)) == ""  # noqa: E731
    assert admits()
    assert admits(service_accounts=("billing", "other"))
    assert not admits(service_accounts=("other",))
    assert admits(pods=("uid-1",))
    assert not admits(pods=())
    assert admission_refusal(ADMIN, "shop/lock", wire.Spec(3000, pods=())) == ""


# --- with real nodes -----------------------------------------------------------------------------------------


class Guarded:
    """A quorum that verifies tokens, and what an administrator needs."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        node = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.cert, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        authority.cert_pem.write_to_path(self.ca)
        node.private_key_pem.write_to_path(self.key)
        for position, blob in enumerate(node.cert_chain_pems):
            blob.write_to_path(self.cert, append=bool(position))
        files = ("--tls-cert", str(self.cert), "--tls-key", str(self.key), "--tls-ca", str(self.ca))
        self.quorum = LocalQuorum(directory / "nodes", 3, auto_declare=False, options=(*files, "--auth", "tokens"))

    def admin(self) -> leaderlease.Client:
        """Return a client with a certificate."""
        return leaderlease.connect(self.quorum.endpoints, tls=(str(self.cert), str(self.key), str(self.ca)))

    def pod(self, text: str, uid: str = "uid-1") -> leaderlease.Client:
        """Return a client with a token."""
        return leaderlease.connect(self.quorum.endpoints, tls=(None, None, str(self.ca)), token=text, pod_uid=uid)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    with made.quorum:
        yield made


async def test_pods_hold_what_admits_them_and_nothing_else(guarded: Guarded) -> None:
    """From the keys that the operator wrote to a lease that a pod holds, over TLS, with no API server anywhere."""
    good = token(now_s=time.time())
    with pytest.raises(leaderlease.ConnectionFailed, match="no keys have reached this node yet"):
        async with guarded.pod(good):
            pass
    async with guarded.admin() as admin:
        await admin.set_keys(ISSUER, "leaderlease", jwks(k1=KEY))
        await admin.declare("shop/billing", duration="1s", service_accounts=["billing"], pods=["uid-1"])
        await admin.declare("shop/others", duration="1s", service_accounts=["others"])
        async with guarded.pod(good) as pod:
            lease = await pod.acquire("shop/billing", "billing-1", timeout=10)
            assert await pod.verify("shop/billing", lease.term)
            with pytest.raises(leaderlease.LeaseRefused, match="admits the service accounts others"):
                await pod.acquire("shop/others", "billing-1", timeout=10)
            with pytest.raises(leaderlease.LeaseRefused, match="own namespace only"):
                await pod.acquire("bank/vault", "billing-1", timeout=10)
            with pytest.raises(leaderlease.LeaseRefused, match="only an administrator"):
                await pod.declare("shop/billing", duration="2s")
            seen = await pod.get("shop/billing")
            assert seen is not None
            assert seen.holder is not None
            assert (seen.holder.name, seen.holder.nonce) == ("billing-1", ""), "its nonce is nobody else's business"
            known = await admin.get("shop/billing")
            assert known is not None
            assert known.holder is not None
            assert known.holder.nonce == lease.nonce
        with pytest.raises(leaderlease.ConnectionFailed, match="Signature verification failed"):
            async with guarded.pod(token(OTHER, now_s=time.time())):
                pass
        with pytest.raises(leaderlease.ConnectionFailed, match="wants a ServiceAccount token"):
            async with guarded.pod(""):
                pass


async def test_keys_survive_a_restart_of_every_node(guarded: Guarded) -> None:
    """They are in a register like everything else."""
    async with guarded.admin() as admin:
        await admin.set_keys(ISSUER, "leaderlease", jwks(k1=KEY))
        await admin.declare("shop/again", duration="1s")
    for node in guarded.quorum.nodes:
        guarded.quorum.kill(node)
    for node in guarded.quorum.nodes:
        guarded.quorum.start_node(node)
    guarded.quorum.wait_ready()
    async with guarded.pod(token(now_s=time.time())) as pod:
        assert await pod.acquire("shop/again", "billing-1", timeout=10)


def test_members_hear_nobody_without_a_certificate(guarded: Guarded) -> None:
    """R8: who shows none of the authority gets no answer, where others are told what is wrong with their hello."""
    context = ssl.create_default_context(cafile=guarded.ca)
    where = ("127.0.0.1", guarded.quorum.nodes[0].peer_port)

    def answer() -> bytes:
        with socket.create_connection(where, 10) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as peer:
            try:
                peer.sendall(PEER.encode([wire.Hello("client", 1, 1)]))
                return peer.recv(1_000)
            except (ssl.SSLError, ConnectionError):
                return b""

    assert answer() == b""
    context.load_cert_chain(guarded.cert, guarded.key)
    assert b"for members of the quorum" in answer()
