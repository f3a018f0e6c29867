"""Authorities that are renewed while a sidecar runs."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from leaderlease.errors import ConfigError
from leaderlease.sidecar.authority import Authority
from leaderlease.wire import tls


def write(path: Path, content: bytes) -> Path:
    """Write a file as a kubelet does: it appears whole."""
    scratch = path.with_suffix(".new")
    scratch.write_bytes(content)
    return scratch.replace(path)


async def dial(authority: trustme.CA, home: Path, context: ssl.SSLContext, *, require_client: bool = False) -> bool:
    """Tell whether a node with a certificate of this authority and the sidecar trust each other."""
    leaf = authority.issue_cert("127.0.0.1")
    cert = write(home / "node.crt", leaf.cert_chain_pems[0].bytes())
    key = write(home / "node.key", leaf.private_key_pem.bytes())
    ca = write(home / "node-ca.crt", authority.cert_pem.bytes())

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        writer.close()

    server = tls.server_context(cert, key, ca, require_client=require_client)
    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
            said = await reader.readline()
            writer.close()
            await writer.wait_closed()
        except (ssl.SSLError, ConnectionError):
            return False
        return said == b"hello\n"


async def test_renewed_authority_is_trusted_without_a_restart(tmp_path: Path) -> None:
    """And that of before, too: nodes change one after another."""
    old, new = trustme.CA(), trustme.CA()
    authority = Authority((None, None, str(write(tmp_path / "ca.crt", old.cert_pem.bytes()))))
    assert await dial(old, tmp_path, authority.context)
    assert not await dial(new, tmp_path, authority.context)
    assert authority.look() is False
    write(tmp_path / "ca.crt", new.cert_pem.bytes())
    assert authority.look() is True
    assert await dial(new, tmp_path, authority.context)
    assert await dial(old, tmp_path, authority.context)


async def test_renewed_client_certificate_is_shown(tmp_path: Path) -> None:
    """A sidecar that shows a certificate shows the new one to nodes of the new authority."""
    old, new = trustme.CA(), trustme.CA()

    def issue(authority: trustme.CA) -> tuple[str, str, str]:
        leaf = authority.issue_cert("sidecar.example")
        blobs = (leaf.cert_chain_pems[0], leaf.private_key_pem, authority.cert_pem)
        paths = [write(tmp_path / name, blob.bytes()) for name, blob in zip(("c", "k", "a"), blobs, strict=True)]
        return str(paths[0]), str(paths[1]), str(paths[2])

    authority = Authority(issue(old))
    issue(new)
    assert authority.look() is True
    assert await dial(new, tmp_path, authority.context, require_client=True)


def test_damaged_file_leaves_the_old_authority(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once; at the start it is refused."""
    path = write(tmp_path / "ca.crt", trustme.CA().cert_pem.bytes())
    authority = Authority((None, None, str(path)))
    write(path, b"no certificate")
    assert (authority.look(), authority.look()) == (False, False)
    assert [record.message for record in caplog.records] == [
        f"renewed certificates cannot be used, the old ones stay: --tls-ca {path} holds no certificate in PEM format"
    ]
    with pytest.raises(ConfigError, match="holds no certificate"):
        Authority((None, None, str(path)))
