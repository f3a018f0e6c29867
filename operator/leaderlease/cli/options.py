"""The options of every command that is a client of the nodes, ``leaderlease run`` included.

It imports little: ``run`` forks its guard before it imports the rest, and the guard is as large as what is there then.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from leaderlease.client.endpoints import ENDPOINTS_DEFAULT, ENDPOINTS_VARIABLE
from leaderlease.errors import ConfigError

TOKEN_BYTES_MAX: Final = 1 << 16

Tls = tuple[str | None, str | None, str]
"""Paths of certificate, key and CA."""


def client_options(command: Any) -> Any:
    """Give a command ``endpoints``, ``tls_ca``, ``tls_cert``, ``tls_key`` and ``token_file``."""
    for option in reversed(_options()):
        command = option(command)
    return command


def _options() -> list[Callable[[Any], Any]]:
    path = click.Path(path_type=Path)
    return [
        click.option(
            "--endpoints",
            envvar=ENDPOINTS_VARIABLE,
            show_envvar=True,
            metavar="HOST:PORT,...",
            help=f"Client ports of the nodes, nearest first.  [default: {ENDPOINTS_DEFAULT}]",
        ),
        click.option("--tls-ca", type=path, envvar="LEADERLEASE_TLS_CA", show_envvar=True,
                     help="PEM file: the authority that signed the nodes. Turns TLS on."),
        click.option("--tls-cert", type=path, envvar="LEADERLEASE_TLS_CERT", show_envvar=True,
                     help="PEM file: a certificate to show to the nodes."),
        click.option("--tls-key", type=path, envvar="LEADERLEASE_TLS_KEY", show_envvar=True,
                     help="PEM file: its private key."),
        click.option("--token-file", type=path, envvar="LEADERLEASE_TOKEN_FILE", show_envvar=True,
                     help="File with a bearer token, for nodes that ask for one; read again for each connection."),
    ]  # fmt: skip


def tls_paths(cert: Path | None, key: Path | None, ca: Path | None) -> Tls | None:
    """Return what a client is given; None is plain TCP.

    Raises:
        ConfigError: A certificate or key without an authority.
    """
    if ca is None:
        if cert is not None or key is not None:
            raise ConfigError("--tls-ca is missing: name the authority that signed the nodes, or TLS stays off")
        return None
    return (str(cert) if cert is not None else None, str(key) if key is not None else None, str(ca))


def token_of(path: Path | None) -> str | Callable[[], str]:
    """Return what a client is given: no token, or what reads the file for each connection, for tokens are renewed.

    Raises:
        ConfigError: The file holds no token now.
    """
    if path is None:
        return ""
    try:
        _read_token(path)
    except OSError as error:
        raise ConfigError(f"--token-file {path}: {error.strerror}") from error
    return lambda: _read_token(path)


def _read_token(path: Path) -> str:
    """Return the token, or raise ``OSError``, which a client takes for a passing trouble."""
    try:
        with path.open("rb") as file:
            content = file.read(TOKEN_BYTES_MAX + 1)
    except OSError as error:
        raise OSError(error.errno, f"cannot be read: {error.strerror}") from error
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or len(content) > TOKEN_BYTES_MAX:
        raise OSError(0, "holds no token")
    return token
