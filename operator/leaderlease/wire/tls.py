"""TLS 1.3 between members, and between clients and nodes.

Policy 1: trust is membership of the CA. A node that gets a CA verifies every certificate that it is shown;
with ``require_client`` it takes no connection without one.
Policy 2: who connects also compares the name that it dialled with the SAN, when that is a DNS name. An
address is not compared, for pods change theirs: pass ``server_name(host)`` as ``server_hostname``. Who dials
addresses trusts every *server* certificate of the CA, so client certificates carry the extended key usage
clientAuth only.
Policy 3: keys are files without a password; rotation is ``reload``, and concerns new connections.

``ssl`` is imported when it is used: a client without TLS does not pay for it.
"""

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leaderlease.errors import ConfigError

if TYPE_CHECKING:
    import ssl

CERT_FLAG: Final = "--tls-cert"
KEY_FLAG: Final = "--tls-key"
CA_FLAG: Final = "--tls-ca"
Stamp = tuple[tuple[int, int, int], ...]
PEM_BYTES_MAX: Final = 1 << 20
"""One file of certificates or one key, in bytes."""


def server_context(cert: Path, key: Path, ca: Path | None, *, require_client: bool) -> "ssl.SSLContext":
    """Return the context of a listening port.

    Args:
        cert: PEM; the certificate of this node, then its intermediates.
        key: PEM, without a password.
        ca: PEM; verifies what clients and peers show. None asks them for nothing.
        require_client: Refuse a connection without a certificate. One that is shown is verified in any case.

    Raises:
        ConfigError: A file is missing, is not what it should be, or the key belongs to another certificate.
    """
    import ssl

    if require_client and ca is None:
        raise ConfigError(f"{CA_FLAG} is not set: client certificates are required, so something must verify them")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    if ca is not None:
        _trust(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    reload(context, cert, key)
    return context


def client_context(cert: Path | None, key: Path | None, ca: Path) -> "ssl.SSLContext":
    """Return the context of a connection that this process opens.

    Pass ``server_name(host)`` as ``server_hostname`` to the loop: the context compares names (policy 2).

    Args:
        cert: PEM; None shows no certificate, which only a server without ``require_client`` accepts.
        key: PEM, without a password; given exactly when ``cert`` is.
        ca: PEM; verifies the server. The system's trust store is never used.

    Raises:
        ConfigError: As ``server_context``, or only one of ``cert`` and ``key`` is given.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    _trust(context, ca)
    if cert is not None and key is not None:
        reload(context, cert, key)
    elif cert is not None:
        raise ConfigError(f"{KEY_FLAG} is not set, and {CERT_FLAG} {cert} is of no use without its key")
    elif key is not None:
        raise ConfigError(f"{CERT_FLAG} is not set, and {KEY_FLAG} {key} is of no use without its certificate")
    return context


def reload(context: "ssl.SSLContext", cert: Path, key: Path, ca: Path | None = None) -> None:
    """Use renewed files for every connection from now on; connections that exist are not touched.

    The files are tried on another context first, so that a half-written pair leaves the old one in use.

    Args:
        context: From ``server_context`` or ``client_context``.
        cert: As there.
        key: As there.
        ca: Trusted from now on too. What was trusted before stays so until the process ends.

    Raises:
        ConfigError: As ``server_context``; try again when the files change.
    """
    import ssl

    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(trial, cert, key)
    if ca is not None:
        _trust(trial, ca)
        _trust(context, ca)
    _load_pair(context, cert, key)


def trust(context: "ssl.SSLContext", ca: Path) -> None:
    """Trust a renewed authority for every connection from now on; what was trusted before stays so.

    Raises:
        ConfigError: It holds no certificate that can be used.
    """
    import ssl

    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca)
    _trust(context, ca)


def stamp(files: Iterable[Path | None]) -> Stamp:
    """Return what changes when any of these files does; one that is missing counts as well.

    Inode, size and time: a projected volume is swapped by a rename of the directory behind a link.
    """
    stamps = []
    for path in files:
        try:
            found = path.stat() if path is not None else None
        except OSError:
            found = None
        stamps.append((found.st_ino, found.st_size, found.st_mtime_ns) if found is not None else (0, 0, 0))
    return tuple(stamps)


def server_name(host: str) -> str:
    """Return what to pass as ``server_hostname``: the DNS name to compare, "" for an address (policy 2)."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    return ""


def _harden(context: "ssl.SSLContext") -> None:
    import ssl

    context.minimum_version = ssl.TLSVersion.TLSv1_3


def _read(flag: str, path: Path, marks: tuple[str, ...], what: str) -> str:
    """Return the text of a PEM file; OpenSSL's own messages name neither the file nor what is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error.strerror}") from error
    if len(content) > PEM_BYTES_MAX:
        raise ConfigError(f"{flag} {path} is larger than {PEM_BYTES_MAX} bytes")
    text = content.decode("utf-8", "replace")
    if not any(f"-----BEGIN {mark}-----" in text for mark in marks):
        raise ConfigError(f"{flag} {path} holds no {what} in PEM format")
    return text


def _trust(context: "ssl.SSLContext", ca: Path) -> None:
    import ssl

    _read(CA_FLAG, ca, ("CERTIFICATE",), "certificate")
    try:
        context.load_verify_locations(cafile=ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{CA_FLAG} {ca} holds a damaged certificate: {_reason(error)}") from error


def _load_pair(context: "ssl.SSLContext", cert: Path, key: Path) -> None:
    import ssl

    _read(CERT_FLAG, cert, ("CERTIFICATE",), "certificate")
    kinds = ("PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
    text = _read(KEY_FLAG, key, kinds, "private key")
    if "ENCRYPTED" in text:
        raise ConfigError(f"{KEY_FLAG} {key} is encrypted: give the key without a password")
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        if "MISMATCH" in _reason(error):
            sentence = f"{KEY_FLAG} {key} is not the key of the certificate in {CERT_FLAG} {cert}"
        elif _is_certificate(cert):
            sentence = f"{KEY_FLAG} {key} holds a damaged private key: {_reason(error)}"
        else:
            sentence = f"{CERT_FLAG} {cert} holds a damaged certificate: {_reason(error)}"
        raise ConfigError(sentence) from error


def _is_certificate(path: Path) -> bool:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError):
        return False
    return True


def _reason(error: OSError) -> str:
    """Return OpenSSL's name of what is wrong, or the system's."""
    return getattr(error, "reason", None) or error.strerror or str(error)
