"""What cert-manager's v1 API takes of the fields that the chart uses; every other field is refused.

Written by hand after cert-manager's own definitions and the checks of its webhook; with the definitions themselves, and
the controllers, run the tests in tests/certmanager, which need Go.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT, "x-kubernetes-list-type": "atomic"}
USAGES = ("digital signature", "key encipherment", "cert sign", "crl sign", "server auth", "client auth")
SPECS: dict[str, dict[str, Any]] = {
    "Certificate": {
        "type": "object",
        "required": ["issuerRef", "secretName"],
        "properties": {
            "isCA": {"type": "boolean"},
            "commonName": {**TEXT, "maxLength": 64},
            "secretName": TEXT,
            "duration": TEXT,
            "renewBefore": TEXT,
            "dnsNames": TEXTS,
            "ipAddresses": TEXTS,
            "usages": {**TEXTS, "items": {"type": "string", "enum": list(USAGES)}},
            "privateKey": {
                "type": "object",
                "properties": {
                    "algorithm": {"type": "string", "enum": ["RSA", "ECDSA", "Ed25519"]},
                    "size": {"type": "integer"},
                    "rotationPolicy": {"type": "string", "enum": ["Never", "Always"]},
                },
                "x-kubernetes-validations": [
                    {"rule": "self.algorithm != 'ECDSA' || self.size in [256, 384, 521]", "message": "no such key"}
                ],
            },
            "issuerRef": {
                "type": "object",
                "required": ["name"],
                "properties": {"group": TEXT, "kind": TEXT, "name": TEXT},
            },
        },
        "x-kubernetes-validations": [
            {
                "rule": "!has(self.renewBefore) || duration(self.renewBefore) < duration(self.duration)",
                "message": "renewBefore must be less than duration",
            },
            {
                "rule": "has(self.commonName) || has(self.dnsNames)",
                "message": "a certificate has a name",
            },
        ],
    },
    "Issuer": {
        "type": "object",
        "properties": {
            "selfSigned": {"type": "object"},
            "ca": {"type": "object", "required": ["secretName"], "properties": {"secretName": TEXT}},
        },
        "x-kubernetes-validations": [{"rule": "has(self.ca) != has(self.selfSigned)", "message": "one kind of issuer"}],
    },
}
"""Kind -> schema of ``spec``."""


def schema(kind: str) -> dict[str, Any]:
    """Return the schema of a kind."""
    return {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {"spec": SPECS[kind]}}}
