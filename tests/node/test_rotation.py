"""Certificates that are renewed while a node runs."""

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
import trustme

from leaderlease.node.rotation import Rotation
from leaderlease.wire import tls


def _issue(authority: trustme.CA, directory: Path) -> tuple[Path, Path, Path]:
    """Write a new certificate of the authority, as a kubelet does: each file appears whole, by a rename."""
    leaf = authority.issue_cert("127.0.0.1")
    files = tuple(directory / name for name in ("tls.crt", "tls.key", "ca.crt"))
    blobs = (b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes(),
             authority.cert_pem.bytes())  # fmt: skip
    for path, blob in zip(files, blobs, strict=True):
        scratch = path.with_suffix(".new")
        scratch.write_bytes(blob)
        scratch.replace(path)
    return files  # type: ignore[return-value]


async def _serial(port: int, context: ssl.SSLContext) -> str:
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    shown = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
    writer.close()
    await writer.wait_closed()
    return str(shown)


async def test_new_connections_see_the_renewed_certificate_and_old_ones_go_on(tmp_path: Path) -> None:
    """A rotation costs nobody a connection, so it costs nobody a lease."""
    authority = trustme.CA()
    files = _issue(authority, tmp_path)
    server = tls.server_context(*files, require_client=False)
    dial = tls.client_context(None, None, files[2])
    rotation = Rotation(files, (server,))

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=dial, server_hostname="")
        before = await _serial(port, dial)
        assert not rotation.look(), "nothing has changed"
        _issue(authority, tmp_path)
        assert rotation.look()
        assert await _serial(port, dial) != before
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        writer.close()
        await writer.wait_closed()


def test_files_that_do_not_fit_together_leave_the_old_ones_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the next whole state is taken."""
    authority = trustme.CA()
    files = _issue(authority, tmp_path)
    rotation = Rotation(files, (tls.server_context(*files, require_client=True),))
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:100])
    with caplog.at_level(logging.ERROR):
        assert not rotation.look()
        assert not rotation.look()
    assert [record.message for record in caplog.records if "the old ones stay" in record.message] != []
    assert len(caplog.records) == 1
    files[1].unlink()
    assert not rotation.look()
    _issue(authority, tmp_path)
    assert rotation.look()
    assert rotation.reloads == 1
