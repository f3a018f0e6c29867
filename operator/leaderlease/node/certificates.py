"""Until when certificates are valid, for the metrics; nothing is decided by it."""

from pathlib import Path
from typing import Final

KINDS: Final = ("leaf", "authority")


def ends_s(cert: Path, authority: Path) -> dict[str, float]:
    """Return when the certificate of this node, and the last of the authorities, end, in Unix seconds.

    A file that cannot be read as certificates has no entry: whoever uses it says why.

    Args:
        cert: PEM; the certificate of this node comes first.
        authority: PEM; during a rotation both authorities are in it.
    """
    # Here: a node without TLS does not pay for it.
    from cryptography import x509

    found = {}
    for kind, path in zip(KINDS, (cert, authority), strict=True):
        try:
            chain = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            continue
        ends = [one.not_valid_after_utc.timestamp() for one in chain]
        found[kind] = ends[0] if kind == "leaf" else max(ends)
    return found
