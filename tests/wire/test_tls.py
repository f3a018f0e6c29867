"""TLS: mutual trust by the CA over real loopback connections, and one clear sentence for every wrong file."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leaderlease.errors import ConfigError, RemoteProtocolError
from leaderlease.paxos.messages import Ping
from leaderlease.wire import tls
from leaderlease.wire.codec import PEER

SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
DNS_NAME = "localhost"
LOOPBACK = "127.0.0.1"


class Pair(NamedTuple):
    """Files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA that writes what it issues into a directory."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(self._sign(builder))

    def issue(self, name: str, *dns_names: str, usages: tuple[x509.ObjectIdentifier, ...] = (SERVER, CLIENT)) -> Pair:
        """Write a certificate for these DNS names and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if dns_names:
            names = x509.SubjectAlternativeName([x509.DNSName(dns_name) for dns_name in dns_names])
            builder = builder.add_extension(names, critical=False)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.cert.write_bytes(self._sign(builder))
        pair.key.write_bytes(pem(key, serialization.NoEncryption()))
        return pair

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    def _sign(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    """Return the key as a file would hold it."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The CA that everybody trusts."""
    return Authority(tmp_path, "authority")


@pytest.fixture
def server(authority: Authority) -> Pair:
    """A node's certificate."""
    return authority.issue("server", DNS_NAME)


@pytest.fixture
def client(authority: Authority) -> Pair:
    """A client's certificate, which is good for nothing else."""
    return authority.issue("client", usages=(CLIENT,))


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[tuple[int, asyncio.Queue[dict[str, object] | None]]]:
    """Serve one frame to everybody who connects; yield the port, and what certificates clients showed."""
    shown: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.put_nowait(writer.get_extra_info("peercert"))
        writer.write(PEER.encode([Ping(1, 2)]))
        writer.close()

    listener = await asyncio.start_server(serve, LOOPBACK, 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1], shown
    finally:
        listener.close()


async def received(port: int, context: ssl.SSLContext | None, host: str = LOOPBACK) -> list[object]:
    """Connect as if to ``host`` and return the messages until the end of the stream."""
    name = None if context is None else tls.server_name(host)
    reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=context, server_hostname=name)
    decoder, messages = PEER.decoder(), []
    try:
        if context is None:
            writer.write(PEER.encode([Ping(3, 4)]))
        while data := await reader.read(65_536):
            messages += decoder.feed(data)
    finally:
        writer.close()
    return messages


async def is_refused(port: int, context: ssl.SSLContext) -> bool:
    """Tell whether the server cut the connection; in TLS 1.3 the client may see no more than the end of it."""
    try:
        return not await received(port, context, DNS_NAME)
    except (ssl.SSLError, ConnectionError):
        return True


async def test_both_sides_prove_themselves(authority: Authority, server: Pair, client: Pair) -> None:
    """With certificates of one CA, TLS 1.3 carries frames, and the node sees who the client is."""
    accepting = tls.server_context(*server, authority.ca, require_client=True)
    async with listening(accepting) as (port, shown):
        assert await received(port, tls.client_context(*client, authority.ca), DNS_NAME) == [Ping(1, 2)]
        peer = shown.get_nowait()
    assert peer is not None
    assert peer["subject"] == ((("commonName", "client"),),)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("host", "is_accepted"), [(DNS_NAME, True), ("other.example", False), (LOOPBACK, True)], ids=str
)
def test_dns_names_are_compared_and_addresses_are_not(
    authority: Authority,
    server: Pair,
    host: str,
    is_accepted: bool,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The SAN must hold the dialled DNS name; by address, any server certificate of the CA will do."""

    async def connect() -> list[object]:
        async with listening(tls.server_context(*server, None, require_client=False)) as (port, _):
            return await received(port, tls.client_context(None, None, authority.ca), host)

    assert run(loop_factory, connect()) is is_accepted


def run(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], conversation: Coroutine[None, None, list[object]]
) -> bool:
    """Run the conversation on a loop of this kind; tell whether it worked or the certificate was refused."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            return runner.run(conversation) == [Ping(1, 2)]
        except ssl.SSLCertVerificationError:
            return False


async def test_client_certificates_cannot_serve(authority: Authority, client: Pair) -> None:
    """A certificate for clientAuth only is refused as a server's, also where no name is compared."""
    async with listening(tls.server_context(*client, None, require_client=False)) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate purpose"):
            await received(port, tls.client_context(None, None, authority.ca))


async def test_a_server_of_another_ca_is_refused(tmp_path: Path, authority: Authority, server: Pair) -> None:
    """The client believes its own CA only."""
    stranger = Authority(tmp_path, "stranger")
    async with listening(tls.server_context(*server, authority.ca, require_client=False)) as (port, shown):
        with pytest.raises(ssl.SSLCertVerificationError):
            await received(port, tls.client_context(None, None, stranger.ca), DNS_NAME)
        assert shown.empty()


@pytest.mark.parametrize("is_required", [True, False])
async def test_a_client_of_another_ca_is_refused(
    tmp_path: Path, authority: Authority, server: Pair, is_required: bool
) -> None:
    """A certificate that is shown must be good, whether or not one is required."""
    stranger = Authority(tmp_path, "stranger").issue("intruder")
    async with listening(tls.server_context(*server, authority.ca, require_client=is_required)) as (port, shown):
        assert await is_refused(port, tls.client_context(*stranger, authority.ca))
        assert shown.empty()


async def test_a_client_without_a_certificate_needs_a_tolerant_server(authority: Authority, server: Pair) -> None:
    """``require_client`` decides; a tolerant server knows that nobody was verified."""
    anonymous = tls.client_context(None, None, authority.ca)
    async with listening(tls.server_context(*server, authority.ca, require_client=True)) as (port, shown):
        assert await is_refused(port, anonymous)
        assert shown.empty()
    async with listening(tls.server_context(*server, authority.ca, require_client=False)) as (port, shown):
        assert await received(port, anonymous, DNS_NAME) == [Ping(1, 2)]
        assert not shown.get_nowait()


async def test_a_plain_client_gets_nothing_from_a_tls_server(authority: Authority, server: Pair) -> None:
    """A client that forgot TLS sees the end of the stream before any frame; the node never sees the client."""
    async with listening(tls.server_context(*server, authority.ca, require_client=True)) as (port, shown):
        assert await received(port, None) == []
        assert shown.empty()


def test_a_tls_client_is_recognised_by_a_plain_node(authority: Authority) -> None:
    """A node without TLS can say why it drops such a connection."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = tls.client_context(None, None, authority.ca)
    side = context.wrap_bio(incoming, outgoing, server_hostname=DNS_NAME)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    with pytest.raises(RemoteProtocolError, match="the other side speaks TLS"):
        PEER.decoder().feed(outgoing.read())


async def test_older_tls_is_refused(authority: Authority, server: Pair) -> None:
    """Nothing below TLS 1.3 is spoken, whatever else the client could do."""
    client = tls.client_context(None, None, authority.ca)
    async with listening(tls.server_context(*server, None, require_client=False)) as (port, shown):
        assert not await is_refused(port, client)
        shown.get_nowait()
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await is_refused(port, client)
        assert shown.empty()


async def test_reload_serves_the_new_certificate(authority: Authority, server: Pair, client: Pair) -> None:
    """After a rotation new connections get the new certificate, without a restart."""
    context = tls.server_context(*server, authority.ca, require_client=True)
    connecting = tls.client_context(*client, authority.ca)
    async with listening(context) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await received(port, connecting, "renamed.example")
        tls.reload(context, *authority.issue("renewed", "renamed.example"))
        assert await received(port, connecting, "renamed.example") == [Ping(1, 2)]


async def test_reload_adds_a_new_ca(tmp_path: Path, authority: Authority, server: Pair) -> None:
    """During a rotation of the CA, certificates of the old and of the new one are trusted."""
    successor = Authority(tmp_path, "successor")
    context = tls.client_context(None, None, authority.ca)
    tls.reload(context, *authority.issue("member"), successor.ca)
    for pair in (server, successor.issue("successors", DNS_NAME)):
        async with listening(tls.server_context(*pair, None, require_client=False)) as (port, _):
            assert await received(port, context, DNS_NAME) == [Ping(1, 2)]


async def test_a_failed_reload_keeps_the_old_pair(authority: Authority, server: Pair, client: Pair) -> None:
    """A half-written rotation is an error, and the old certificate goes on serving."""
    context = tls.server_context(*server, None, require_client=False)
    with pytest.raises(ConfigError):
        tls.reload(context, client.cert, server.key)
    async with listening(context) as (port, _):
        assert await received(port, tls.client_context(None, None, authority.ca), DNS_NAME) == [Ping(1, 2)]


def damaged(pair_file: Path) -> Path:
    """Return a copy that has its PEM lines and nothing of sense between them."""
    lines = pair_file.read_text(encoding="ascii").splitlines()
    copy = pair_file.with_name(f"damaged-{pair_file.name}")
    copy.write_text("\n".join([lines[0], "AAAA", lines[-1], ""]), encoding="ascii")
    return copy


def test_wrong_files_are_named(tmp_path: Path, authority: Authority, server: Pair, client: Pair) -> None:
    """Each wrong file gives one sentence with the flag, the path and what is wrong."""
    missing, ca = tmp_path / "missing", authority.ca
    encrypted, huge = tmp_path / "encrypted.key", tmp_path / "huge.pem"
    password = serialization.BestAvailableEncryption(b"secret")
    encrypted.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), password))
    huge.write_bytes(ca.read_bytes() + bytes(tls.PEM_BYTES_MAX))
    cases = [
        (missing, server.key, ca, f"--tls-cert {missing} cannot be read: No such file or directory"),
        (server.cert, missing, ca, f"--tls-key {missing} cannot be read: No such file or directory"),
        (server.cert, server.key, missing, f"--tls-ca {missing} cannot be read: No such file or directory"),
        (tmp_path, server.key, ca, f"--tls-cert {tmp_path} cannot be read: Is a directory"),
        (server.key, server.key, ca, f"--tls-cert {server.key} holds no certificate in PEM format"),
        (server.cert, server.cert, ca, f"--tls-key {server.cert} holds no private key in PEM format"),
        (server.cert, server.key, client.key, f"--tls-ca {client.key} holds no certificate in PEM format"),
        (server.cert, server.key, huge, f"--tls-ca {huge} is larger than 1048576 bytes"),
        (server.cert, encrypted, ca, f"--tls-key {encrypted} is encrypted: give the key without a password"),
        (
            server.cert,
            client.key,
            ca,
            f"--tls-key {client.key} is not the key of the certificate in --tls-cert {server.cert}",
        ),
    ]
    for cert, key, trusted, sentence in cases:
        with pytest.raises(ConfigError) as caught:
            tls.server_context(cert, key, trusted, require_client=True)
        assert str(caught.value) == sentence
        with pytest.raises(ConfigError) as caught:
            tls.client_context(cert, key, trusted)
        assert str(caught.value) == sentence


def test_damaged_files_are_named(authority: Authority, server: Pair) -> None:
    """PEM lines with nonsense between them: the sentence names which file, whatever OpenSSL calls it."""
    cert, key, ca = damaged(server.cert), damaged(server.key), damaged(authority.ca)
    for files, start in [
        ((cert, server.key, authority.ca), f"--tls-cert {cert} holds a damaged certificate: "),
        ((server.cert, key, authority.ca), f"--tls-key {key} holds a damaged private key: "),
        ((server.cert, server.key, ca), f"--tls-ca {ca} holds a damaged certificate: "),
    ]:
        with pytest.raises(ConfigError) as caught:
            tls.server_context(*files, require_client=False)
        assert str(caught.value).startswith(start)


def test_half_a_pair_is_refused(authority: Authority, client: Pair) -> None:
    """A certificate without its key, or a key without its certificate, is a mistake and no anonymous client."""
    with pytest.raises(ConfigError, match="--tls-key is not set"):
        tls.client_context(client.cert, None, authority.ca)
    with pytest.raises(ConfigError, match="--tls-cert is not set"):
        tls.client_context(None, client.key, authority.ca)


def test_required_clients_need_a_ca(server: Pair) -> None:
    """Nothing could verify them otherwise."""
    with pytest.raises(ConfigError, match="--tls-ca is not set"):
        tls.server_context(*server, None, require_client=True)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("node-0.nodes.default.svc", "node-0.nodes.default.svc"),
        ("10.0.0.7", ""),
        ("::1", ""),
        ("[::1]", ""),
        ("fe80::1%eth0", ""),
    ],
)
def test_server_name_is_empty_for_addresses(host: str, name: str) -> None:
    """Only DNS names are compared with certificates."""
    assert tls.server_name(host) == name
