"""An issuer of the tests: makes what a Certificate of cert-manager asks for, with nothing of ours."""

import base64
import datetime
import ipaddress
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USAGES = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}
DAYS = 30
PEM = serialization.Encoding.PEM


class Authority:
    """One authority."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(subject, subject, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(PEM)

    def issue(self, spec: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """Return certificate and key for the ``spec`` of a Certificate."""
        assert spec["privateKey"]["algorithm"] == "ECDSA"
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in spec["dnsNames"]]
        names += [x509.IPAddress(ipaddress.ip_address(one)) for one in spec.get("ipAddresses") or ()]
        usages = [USAGES[one] for one in spec["usages"] if one in USAGES]
        is_signing = "digital signature" in spec["usages"]
        usage = x509.KeyUsage(is_signing, False, False, False, False, False, False, False, False)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spec["commonName"])])
        certificate = (
            _builder(subject, self._certificate.subject, key)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return certificate.public_bytes(PEM), private


def secret(name: str, pair: tuple[bytes, bytes], *authorities: Authority) -> dict[str, Any]:
    """Return the Secret with a certificate, its key, and the authorities that its owner is to trust."""
    bundle = b"".join(one.pem for one in authorities)
    data = {"tls.crt": pair[0], "tls.key": pair[1], "ca.crt": bundle}
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name},
        "data": encoded,
    }


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )
