"""Certificates of an installation: issued once, kept while they are good, and good for TLS between real ends."""

import base64
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from leaderlease.controller.actions import Apply
from leaderlease.controller.issue import (
    WEBHOOK_NAME,
    Lifetimes,
    new_authority,
    plan_certificates,
    plan_webhook,
)
from leaderlease.controller.resource import Json
from leaderlease.errors import ConfigError
from leaderlease.wire.tls import client_context, server_context

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
NAMES = {"node": ("localhost", "127.0.0.1"), "operator": ("operator",), "webhook": ("hook.x.svc",)}
SECRETS = ("ll-node-ca", "ll-webhook-ca", "ll-node-tls", "ll-operator-tls", "ll-webhook-tls")


def issue(
    found: dict[str, Json | None], now: datetime.datetime = NOW, names: dict[str, tuple[str, ...]] = NAMES
) -> dict[str, Json]:
    """Return the Secrets that are written, by name, and put them into ``found``."""
    actions, _ = plan_certificates(found, names, "x", "ll", Lifetimes(), now)
    written = {}
    for action in actions:
        assert isinstance(action, Apply)
        written[action.body["metadata"]["name"]] = action.body
    found.update(written)
    return written


def test_everything_is_issued_once() -> None:
    """The first run writes two authorities and three certificates, the second nothing."""
    found: dict[str, Json | None] = dict.fromkeys(SECRETS)
    assert sorted(issue(found)) == sorted(SECRETS)
    assert issue(found) == {}


def test_what_ends_soon_is_issued_anew_by_the_same_authority() -> None:
    """With less than 30 of 90 days left certificates are renewed; authorities, which last longer, are kept."""
    found: dict[str, Json | None] = {}
    issue(found)
    assert issue(found, NOW + 59 * DAY) == {}
    assert sorted(issue(found, NOW + 61 * DAY)) == ["ll-node-tls", "ll-operator-tls", "ll-webhook-tls"]


def test_other_names_need_another_certificate() -> None:
    """Only the certificate whose names have changed is issued anew."""
    found: dict[str, Json | None] = {}
    issue(found)
    assert list(issue(found, names={**NAMES, "node": ("elsewhere",)})) == ["ll-node-tls"]


def test_a_new_authority_signs_everything_anew() -> None:
    """A certificate of an authority that is gone is no good."""
    found: dict[str, Json | None] = {}
    issue(found)
    found["ll-node-ca"] = None
    assert sorted(issue(found)) == ["ll-node-ca", "ll-node-tls", "ll-operator-tls"]


def test_a_secret_with_something_else_is_refused() -> None:
    """Overwriting what somebody put there would be worse than stopping."""
    data = {name: base64.b64encode(b"mine").decode() for name in ("tls.crt", "tls.key")}
    with pytest.raises(ConfigError, match="Secret ll-node-tls: holds no certificate with its key"):
        issue({"ll-node-tls": {"data": data}})


def test_the_operators_certificate_cannot_pose_as_a_node() -> None:
    """It is for clients alone, so that whoever dials an address cannot be led to its owner."""
    found: dict[str, Json | None] = {}
    secret = issue(found)["ll-operator-tls"]
    certificate = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == ["1.3.6.1.5.5.7.3.2"]


def _files(secret: Json, home: Path) -> tuple[Path, Path, Path]:
    home.mkdir()
    for name, text in secret["data"].items():
        (home / name).write_bytes(base64.b64decode(text))
    return home / "tls.crt", home / "tls.key", home / "ca.crt"


@pytest.mark.parametrize(("kind", "is_trusted"), [("operator", True), ("webhook", False)])
def test_nodes_take_the_operator_and_not_the_webhook(kind: str, is_trusted: bool, tmp_path: Path) -> None:
    """A handshake between real contexts: the webhook's authority says nothing to nodes."""
    found: dict[str, Json | None] = {}
    written = issue(found)
    cert, key, ca = _files(written["ll-node-tls"], tmp_path / "node")
    own_cert, own_key, _ = _files(written[f"ll-{kind}-tls"], tmp_path / kind)
    server = server_context(cert, key, ca, require_client=True)
    client = client_context(own_cert, own_key, ca)
    if is_trusted:
        assert _handshake(client, server)
    else:
        with pytest.raises(ssl.SSLError):
            _handshake(client, server)


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> bool:
    """Shake hands in memory; raises ``ssl.SSLError`` where one side refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [here, there]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return True
    return False


def test_the_webhooks_configuration_is_written_when_it_trusts_another() -> None:
    """Its authority is filled in once, and nothing else is touched."""
    authority = new_authority("a", NOW, 1).certificate
    [action] = plan_webhook("hooks", {"webhooks": [{"name": WEBHOOK_NAME, "clientConfig": {}}]}, authority)
    assert isinstance(action, Apply)
    [entry] = action.body["webhooks"]
    assert sorted(entry) == ["clientConfig", "name"]
    assert plan_webhook("hooks", {"webhooks": [entry]}, authority) == []
