"""The operator's own certificate is renewed while it runs."""

import asyncio
from pathlib import Path

import trustme

from leaderlease.controller.node_tls import NodeTls
from leaderlease.wire import tls


def _issue(authority: trustme.CA, directory: Path, name: str) -> tuple[Path, Path, Path]:
    directory.mkdir(exist_ok=True)
    leaf = authority.issue_cert(name)
    files = (directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
    blobs = (leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes(), authority.cert_pem.bytes())
    for path, blob in zip(files, blobs, strict=True):
        path.with_suffix(".new").write_bytes(blob)
        path.with_suffix(".new").replace(path)
    return files


async def test_the_next_connection_shows_the_renewed_certificate(tmp_path: Path) -> None:
    """Who never restarts must not be locked out when the certificate that it began with has run out."""
    authority = trustme.CA()
    server = tls.server_context(*_issue(authority, tmp_path / "node", "127.0.0.1"), require_client=True)
    mine = NodeTls(*_issue(authority, tmp_path / "operator", "operator"))
    assert mine.rotation is not None
    shown: asyncio.Queue[str] = asyncio.Queue()

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.put_nowait(str(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]))
        writer.close()

    async def serial(port: int) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=mine.context, server_hostname="")
        try:
            return await asyncio.wait_for(shown.get(), 10)
        finally:
            writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        first = await serial(port)
        assert await serial(port) == first
        _issue(authority, tmp_path / "operator", "operator")
        assert mine.rotation.look()
        assert await serial(port) != first


async def test_without_a_certificate_nothing_is_looked_at(tmp_path: Path) -> None:
    """An operator that only verifies the nodes runs on."""
    mine = NodeTls(None, None, _issue(trustme.CA(), tmp_path / "node", "127.0.0.1")[2])
    running = asyncio.create_task(mine.run())
    await asyncio.sleep(0)
    assert mine.rotation is None
    assert not running.done()
    running.cancel()
