"""Certificates for an installation that has no cert-manager: two authorities, three certificates, each in a Secret.

Rule 1: the webhook's authority is another than the nodes', for whoever shows a certificate of the nodes' authority is
        an administrator.
Rule 2: an authority that exists is kept. A certificate is issued anew when it ends soon, was issued for other names,
        or by another authority; nothing else is written.
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
from leaderlease.controller.resource import LABEL_MANAGED, MANAGER, Json, Kind
from leaderlease.errors import ConfigError

SECRET: Final = Kind("Secret", "", "v1", "secrets")
WEBHOOKS: Final = Kind(
    "MutatingWebhookConfiguration", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", False
)
WEBHOOK_NAME: Final = "inject.leaderlease.dev"
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
    """How long things last, in days."""

    authority_days: int = 3650
    certificate_days: int = 90
    renew_before_days: int = 30


class Pair(msgspec.Struct, frozen=True):
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


def plan_certificates(
    found: Mapping[str, Json | None],
    names: Mapping[str, tuple[str, ...]],
    namespace: str,
    prefix: str,
    lifetimes: Lifetimes,
    now: datetime.datetime,
) -> tuple[list[Action], bytes]:
    """Return what should be written (rule 2), and the PEM of the webhook's authority.

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
    authorities: dict[str, Pair] = {}
    for kind in ("node", "webhook"):
        name = f"{prefix}-{kind}-ca"
        pair = _pair_of(name, found.get(name))
        if pair is None:
            pair = new_authority(f"leaderlease-{kind}-ca", now, lifetimes.authority_days)
            actions.append(Apply(SECRET, _secret(namespace, name, pair, pair.certificate)))
        authorities[kind] = pair
    for kind, wanted in names.items():
        name, authority = f"{prefix}-{kind}-tls", authorities[AUTHORITIES[kind]]
        pair = _pair_of(name, found.get(name))
        soon = now + datetime.timedelta(days=lifetimes.renew_before_days)
        if pair is None or not _is_good(pair, wanted, authority, soon):
            pair = new_certificate(authority, kind, wanted, now, lifetimes.certificate_days)
            actions.append(Apply(SECRET, _secret(namespace, name, pair, authority.certificate)))
    return actions, authorities["webhook"].certificate


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


def _pair_of(name: str, secret: Json | None) -> Pair | None:
    data = (secret or {}).get("data") or {}
    if not data.get("tls.crt") or not data.get("tls.key"):
        return None
    try:
        pair = Pair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))
        x509.load_pem_x509_certificate(pair.certificate)
        serialization.load_pem_private_key(pair.key, None)
    except (ValueError, binascii.Error) as error:
        raise ConfigError(f"Secret {name}: holds no certificate with its key ({error}): delete it") from error
    return pair


def _secret(namespace: str, name: str, pair: Pair, authority: bytes) -> Json:
    content = {"ca.crt": authority, "tls.crt": pair.certificate, "tls.key": pair.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL_MANAGED: MANAGER}},
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in content.items()},
    }
