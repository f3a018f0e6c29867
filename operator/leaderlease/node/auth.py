"""Who a client is and what it may do: projected ServiceAccount tokens, verified offline (``--auth tokens``).

Rule 1: a certificate of the members' authority makes an administrator: the operator, and people whom it was given to.
Rule 2: everybody else shows a token for our audience. It is verified with the cluster's keys, which the operator
        writes to a register of their own: no API server is asked, and a node that was away learns new keys as it
        learns everything.
Rule 3: a pod touches leases of its own namespace alone, and only in its own name; what is declared for a lease says
        which service accounts and pods it admits.
Rule 4: every refusal is one sentence with its reason, and is counted.
Rule 5: nobody is shown another's nonce, for it is all that tells a holder from a stranger (H19).
"""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from leaderlease.errors import ConfigError
from leaderlease.node.driver import Driver
from leaderlease.paxos.acceptor import Record
from leaderlease.paxos.ballot import ZERO, Ballot
from leaderlease.paxos.lease import Value
from leaderlease.wire import session as wire

KEYS_KEY: Final = "a/keys"
"""The register that holds the keys."""
KEYS_BYTES_MAX: Final = 256 << 10
TOKEN_BYTES_MAX: Final = 16 << 10
LEEWAY_S: Final = 60
"""How far a node's wall clock may be off when the times of a token are compared."""
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
"""Of public keys alone: with a shared secret whoever can verify can also forge."""
_FREE: Final = (wire.KeepAlive, wire.CancelRequest, wire.UnwatchRequest, wire.StatusRequest)
_OPERATORS_ONLY: Final = (wire.DeclareRequest, wire.RevokeRequest, wire.KeysRequest, wire.SpecsRequest)


class Principal(msgspec.Struct, frozen=True):
    """Who speaks on a connection.

    Attributes:
        is_admin: May do everything.
        namespace: Of a pod; with the three below from its token.
    """

    is_admin: bool
    namespace: str = ""
    service_account: str = ""
    pod_name: str = ""
    pod_uid: str = ""

    def __str__(self) -> str:
        return "an administrator" if self.is_admin else f"{self.namespace}/{self.pod_name} ({self.service_account})"


ADMIN: Final = Principal(True)


class Keys(msgspec.Struct, frozen=True):
    """What tokens are verified with.

    Attributes:
        issuer: What ``iss`` must be.
        audience: What ``aud`` must contain.
        jwks: The public keys, as RFC 7517 has them.
    """

    issuer: str
    audience: str
    jwks: dict[str, Any]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Keys).decode


class Authenticator:
    """Verifies tokens with the keys of the register, as this node knows it.

    Args:
        driver: Whose registers hold the keys.
        mode: ``open`` makes everybody an administrator.
        wall_s: The wall clock, in seconds; tokens have no other.
    """

    def __init__(self, driver: Driver, mode: str, wall_s: Callable[[], float] = time.time) -> None:
        self.mode = mode
        self._wall_s = wall_s
        self._keys: Keys | None = None
        self._public: dict[str, Any] = {}
        self._ballot = ZERO
        register = driver.acceptor.registers.get(KEYS_KEY)
        if register is not None and register.value is not None:
            self._take(register.accepted, register.value)
        driver.on_installed.append(self._on_installed)
        driver.on_found.append(self._on_found)

    def identify(self, hello: wire.Hello, has_certificate: bool) -> Principal | str:
        """Return who says hello, or in one sentence why nobody that may connect."""
        if self.mode == "open" or has_certificate:
            return ADMIN
        if not hello.token:
            return "this quorum wants a ServiceAccount token, or a client certificate of its authority"
        if self._keys is None:
            return "no keys have reached this node yet, so no token can be verified: is the operator running?"
        return self._verify(hello.token, self._keys)

    def _verify(self, token: str, keys: Keys) -> Principal | str:
        import jwt

        if len(token) > TOKEN_BYTES_MAX:
            return f"token: {len(token)} bytes, at most {TOKEN_BYTES_MAX}"
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self._public.get(kid)
            if key is None:
                return f"token: signed with key {kid!r}, which this node does not have"
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=keys.audience,
                issuer=keys.issuer,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.PyJWTError as error:
            return f"token: {error}"
        now_s = self._wall_s()
        if float(claims["exp"]) + LEEWAY_S < now_s:
            return f"token: expired {now_s - float(claims['exp']):.0f} s ago"
        if float(claims.get("nbf", 0)) - LEEWAY_S > now_s:
            return f"token: valid only in {float(claims['nbf']) - now_s:.0f} s; a clock is wrong"
        return _pod_of(claims)

    def _on_installed(self, record: Record) -> None:
        if record.key == KEYS_KEY and record.value is not None:
            self._take(record.accepted, record.value)

    def _on_found(self, key: str, ballot: Ballot, value: Value) -> None:
        if key == KEYS_KEY:
            self._take(ballot, value)

    def _take(self, ballot: Ballot, value: Value) -> None:
        import jwt

        if ballot < self._ballot:
            # A read that was under way while newer keys were installed here: who has left must not come back (H21).
            return
        self._ballot = ballot
        keys = _decode(value.body)
        self._keys = keys
        self._public = {str(key.key_id): key.key for key in jwt.PyJWKSet.from_dict(keys.jwks).keys}


def encode_keys(issuer: str, audience: str, jwks: bytes) -> bytes:
    """Return what the register holds.

    Raises:
        ConfigError: No set of public keys, or too large.
    """
    import jwt

    if not issuer or not audience:
        raise ConfigError("keys: issuer and audience must not be empty")
    if len(jwks) > KEYS_BYTES_MAX:
        raise ConfigError(f"keys: {len(jwks)} bytes, at most {KEYS_BYTES_MAX}")
    try:
        found = msgspec.json.decode(jwks)
        keys = jwt.PyJWKSet.from_dict(found).keys
    except (ValueError, RecursionError, jwt.PyJWTError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(f"keys: no JSON web key set: {error}") from error
    if not all(key.key_id for key in keys):
        raise ConfigError("keys: each key needs a kid")
    return _encode(Keys(issuer, audience, found))


def refusal(principal: Principal, message: Any) -> str:
    """Say why this principal may not ask that; empty if it may. What a lease admits is for ``admission_refusal``."""
    if principal.is_admin or isinstance(message, _FREE):
        return ""
    if isinstance(message, _OPERATORS_ONLY):
        return f"only an administrator may do that, and {principal} is none"
    if isinstance(message, wire.ListRequest | wire.WatchRequest):
        wanted = message.prefix
    else:
        wanted = message.name
    if not wanted.startswith(f"{principal.namespace}/"):
        return f"{wanted or 'all leases'}: {principal} may touch leases of its own namespace only"
    if isinstance(message, wire.AcquireRequest) and message.holder.pod_uid != principal.pod_uid:
        return f"{message.name}: pod uid {message.holder.pod_uid!r} is not that of {principal}"
    return ""


def admission_refusal(principal: Principal, name: str, spec: wire.Spec) -> str:
    """Say why what was declared does not admit this pod; empty if it does."""
    if principal.is_admin:
        return ""
    if spec.service_accounts and principal.service_account not in spec.service_accounts:
        return f"{name} admits the service accounts {', '.join(spec.service_accounts)}, and not {principal}"
    if spec.pods is not None and principal.pod_uid not in spec.pods:
        return f"{name}: {principal} is none of the pods that its selector matches, or not yet"
    return ""


def _pod_of(claims: dict[str, Any]) -> Principal | str:
    kubernetes = claims.get("kubernetes.io")
    try:
        return Principal(
            False,
            str(kubernetes["namespace"]),  # type: ignore[index]
            str(kubernetes["serviceaccount"]["name"]),  # type: ignore[index]
            str(kubernetes["pod"]["name"]),  # type: ignore[index]
            str(kubernetes["pod"]["uid"]),  # type: ignore[index]
        )
    except (KeyError, TypeError):
        return "token: not bound to a pod; it must be a projected ServiceAccount token"
