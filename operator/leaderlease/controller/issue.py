"""Certificates for an installation that has no cert-manager: two authorities, three certificates, each in a Secret.

Rule 1: the webhook's authority is another than the nodes', for whoever shows a certificate of the nodes' authority is
        an administrator.
Rule 2: an authority that exists is kept until it would end before the certificates that it signs, or until somebody
        asks for another. A certificate is issued anew when it ends soon, was issued for other names, or by another
        authority; nothing else is written.
Rule 3: a new authority is trusted everywhere for a whole overlap before it signs anything, and the one before for a
        whole overlap after it has stopped. So at each moment everybody trusts what anybody shows.
"""

import base64
import binascii
import datetime
import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leaderlease.controller.actions import Action, Apply
from leaderlease.controller.resource import GROUP, LABEL_MANAGED, MANAGER, Json, Kind
from leaderlease.errors import ConfigError

SECRET: Final = Kind("Secret", "", "v1", "secrets")
WEBHOOKS: Final = Kind(
    "MutatingWebhookConfiguration", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", False
)
WEBHOOK_NAME: Final = "inject.leaderlease.dev"
ANNOTATION_ROTATE: Final = f"{GROUP}/rotate"
"""On the Secret of an authority, by people: any text that is not the one before asks for a new authority."""
ANNOTATION_ROTATED: Final = f"{GROUP}/rotated"
"""Likewise, by us: the text that was acted upon."""
ANNOTATION_SINCE: Final = f"{GROUP}/since"
"""Likewise: when the present overlap began, in Unix seconds."""
ANNOTATION_END: Final = f"{GROUP}/ends-at"
"""Likewise: when the authority that signs ends, in Unix seconds; for the chart, which cannot read certificates."""
LEEWAY: Final = datetime.timedelta(minutes=5)
"""How far other clocks may be behind when a certificate is new."""
AUTHORITIES: Final = {"node": "node", "operator": "node", "webhook": "webhook"}
"""Certificate -> who signs it (rule 1)."""
USAGES: Final = {
    "node": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    "operator": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "webhook": (ExtendedKeyUsageOID.SERVER_AUTH,),
}


class Lifetimes(msgspec.Struct, frozen=True):
    """How long things last.

    Attributes:
        overlap_hours: How long two authorities are trusted before the newer one signs, and again before the older one
            is forgotten. Longer than Secrets and annotations take to reach all processes, which is some minutes.
    """

    authority_days: int = 3650
    certificate_days: int = 90
    renew_before_days: int = 30
    overlap_hours: int = 168

    @property
    def overlap(self) -> datetime.timedelta:
        """The overlap."""
        return datetime.timedelta(hours=self.overlap_hours)

    @property
    def authority_renew_before(self) -> datetime.timedelta:
        """When an authority is replaced: while it outlasts what it signs, and not in the first part of its life."""
        wanted = datetime.timedelta(days=self.certificate_days) + 2 * self.overlap
        return min(wanted, datetime.timedelta(days=self.authority_days) / 3)


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


class Authority(msgspec.Struct, frozen=True):
    """Who signs, and who is trusted besides: never both ``coming`` and ``previous``.

    Attributes:
        signer: Signs.
        coming: Is trusted already, and signs when the overlap is over.
        previous: Certificate that signed before, and is trusted until the overlap is over.
        since: When the overlap began.
        rotated: What people asked for last, and got.
    """

    signer: Pair
    coming: Pair | None = None
    previous: bytes = b""
    since: datetime.datetime | None = None
    rotated: str = ""

    @property
    def bundle(self) -> bytes:
        """PEM of all that are trusted, the signer first."""
        others = (self.coming.certificate if self.coming else b"", self.previous)
        return b"".join(one.rstrip() + b"\n" for one in (self.signer.certificate, *others) if one)


def next_authority(kind: str, found: Authority, asked: str, lifetimes: Lifetimes, now: datetime.datetime) -> Authority:
    """Return what an authority should be now; the same where nothing is to be done (rules 2 and 3).

    Args:
        kind: ``node`` or ``webhook``.
        found: What it is.
        asked: What people want, from ``ANNOTATION_ROTATE``.
        lifetimes: How long things last.
        now: With a time zone.
    """
    end = x509.load_pem_x509_certificate(found.signer.certificate).not_valid_after_utc
    is_over = found.since is None or now >= min(found.since + lifetimes.overlap, end)
    if found.coming is not None:
        if not is_over:
            return found
        return Authority(found.coming, None, found.signer.certificate, now, found.rotated)
    if found.previous:
        # Its own end does not matter here: what it signed was replaced when the overlap began.
        is_over = found.since is None or now >= found.since + lifetimes.overlap
        return Authority(found.signer, rotated=found.rotated) if is_over else found
    if asked in ("", found.rotated) and now < end - lifetimes.authority_renew_before:
        return found
    return Authority(found.signer, new_authority(_name_of(kind), now, lifetimes.authority_days), b"", now, asked)


def plan_certificates(
    found: Mapping[str, Json | None],
    names: Mapping[str, tuple[str, ...]],
    namespace: str,
    prefix: str,
    lifetimes: Lifetimes,
    now: datetime.datetime,
) -> tuple[list[Action], bytes]:
    """Return what should be written, and the PEM of the webhook's authorities.

    Args:
        found: Name of a Secret -> the Secret, or None if there is none.
        names: ``node``, ``operator``, ``webhook`` -> DNS names and addresses.
        namespace: Of the Secrets.
        prefix: Of their names.
        lifetimes: In days.
        now: With a time zone.

    Raises:
        ConfigError: A Secret holds something else.
    """
    actions: list[Action] = []
    authorities: dict[str, Authority] = {}
    for kind in ("node", "webhook"):
        name = f"{prefix}-{kind}-ca"
        secret = found.get(name)
        before = _authority_of(name, secret)
        asked = _annotation(secret, ANNOTATION_ROTATE)
        if before is None:
            signer = new_authority(_name_of(kind), now, lifetimes.authority_days)
            after = Authority(signer, rotated=asked)
        else:
            after = next_authority(kind, before, asked, lifetimes, now)
        if after != before:
            actions.append(Apply(SECRET, _authority_secret(namespace, name, after)))
        authorities[kind] = after
    for kind, wanted in names.items():
        name, authority = f"{prefix}-{kind}-tls", authorities[AUTHORITIES[kind]]
        pair = _pair_of(name, found.get(name))
        soon = now + datetime.timedelta(days=lifetimes.renew_before_days)
        is_good = pair is not None and _is_good(pair, wanted, authority.signer, soon)
        if pair is None or not is_good:
            pair = new_certificate(authority.signer, kind, wanted, now, lifetimes.certificate_days)
        if not is_good or _text(found.get(name), "ca.crt") != authority.bundle:
            actions.append(Apply(SECRET, _secret(namespace, name, pair, authority.bundle)))
    return actions, authorities["webhook"].bundle


def plan_webhook(name: str, found: Json, authority: bytes) -> list[Action]:
    """Return what makes the API server trust the webhook; nothing if it does already."""
    bundle = base64.b64encode(authority).decode()
    webhooks = found.get("webhooks") or ()
    if any(
        one["name"] == WEBHOOK_NAME and (one.get("clientConfig") or {}).get("caBundle") == bundle for one in webhooks
    ):
        return []
    entry = {"name": WEBHOOK_NAME, "clientConfig": {"caBundle": bundle}}
    body = {"apiVersion": WEBHOOKS.api_version, "kind": WEBHOOKS.name, "metadata": {"name": name}, "webhooks": [entry]}
    return [Apply(WEBHOOKS, body)]


def new_authority(name: str, now: datetime.datetime, days: int) -> Pair:
    """Make an authority that signs certificates and no other authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    builder = (
        _builder(subject, subject, public, now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_certificate(authority: Pair, kind: str, names: tuple[str, ...], now: datetime.datetime, days: int) -> Pair:
    """Issue the certificate of ``node``, ``operator`` or ``webhook``."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"leaderlease-{kind}")])
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        _builder(subject, issuer.subject, public, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(USAGES[kind]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(by, critical=False)
        .add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
    )
    return _pair(builder.sign(signer, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*formats))


def _general(names: tuple[str, ...]) -> list[x509.GeneralName]:
    return [found for name in names for found in _one_name(name)]


def _one_name(name: str) -> Iterator[x509.GeneralName]:
    try:
        yield x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        yield x509.DNSName(name)


def _is_good(pair: Pair, names: tuple[str, ...], authority: Pair, until: datetime.datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    try:
        certificate.verify_directly_issued_by(issuer)
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(found) == set(_general(names)) and certificate.not_valid_after_utc > until


def _name_of(kind: str) -> str:
    return f"leaderlease-{kind}-ca"


def _annotation(secret: Json | None, name: str) -> str:
    return str(((secret or {}).get("metadata", {}).get("annotations") or {}).get(name, ""))


def _text(secret: Json | None, key: str) -> bytes:
    """Return one entry of a Secret; empty where there is none."""
    return base64.b64decode(((secret or {}).get("data") or {}).get(key) or b"")


def _pair_of(name: str, secret: Json | None, certificate: str = "tls.crt", key: str = "tls.key") -> Pair | None:
    try:
        pair = Pair(_text(secret, certificate), _text(secret, key))
        if not pair.certificate or not pair.key:
            return None
        x509.load_pem_x509_certificate(pair.certificate)
        serialization.load_pem_private_key(pair.key, None)
    except (ValueError, binascii.Error) as error:
        raise ConfigError(f"Secret {name}: holds no certificate with its key ({error}): delete it") from error
    return pair


def _authority_of(name: str, secret: Json | None) -> Authority | None:
    signer = _pair_of(name, secret)
    if signer is None:
        return None
    since = _annotation(secret, ANNOTATION_SINCE)
    return Authority(
        signer,
        _pair_of(name, secret, "next.crt", "next.key"),
        _text(secret, "previous.crt"),
        datetime.datetime.fromtimestamp(int(since), datetime.UTC) if since.isdigit() else None,
        _annotation(secret, ANNOTATION_ROTATED),
    )


def _authority_secret(namespace: str, name: str, authority: Authority) -> Json:
    coming = authority.coming
    more = {"next.crt": coming.certificate, "next.key": coming.key} if coming is not None else {}
    if authority.previous:
        more["previous.crt"] = authority.previous
    body = _secret(namespace, name, authority.signer, authority.bundle, more)
    end = x509.load_pem_x509_certificate(authority.signer.certificate).not_valid_after_utc
    annotations = {ANNOTATION_END: str(int(end.timestamp()))}
    if authority.since is not None:
        annotations[ANNOTATION_SINCE] = str(int(authority.since.timestamp()))
    if authority.rotated:
        annotations[ANNOTATION_ROTATED] = authority.rotated
    body["metadata"]["annotations"] = annotations
    return body


def _secret(namespace: str, name: str, pair: Pair, authority: bytes, more: Mapping[str, bytes] | None = None) -> Json:
    content = {"ca.crt": authority, "tls.crt": pair.certificate, "tls.key": pair.key, **(more or {})}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_MANAGED: MANAGER}},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in content.items()},
    }
