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


HOUR = datetime.timedelta(hours=1)
OVERLAP = Lifetimes().overlap


def ask(found: dict[str, Json | None], kind: str, text: str) -> None:
    """Annotate the Secret of an authority, as people do."""
    secret = found[f"ll-{kind}-ca"]
    assert secret is not None
    secret["metadata"].setdefault("annotations", {})["leaderlease.dev/rotate"] = text


def pem(found: dict[str, Json | None], name: str, key: str) -> bytes:
    """Return an entry of a Secret."""
    secret = found[name]
    assert secret is not None
    return base64.b64decode(secret["data"].get(key, ""))


def trusted(found: dict[str, Json | None], leaf: str) -> list[x509.Certificate]:
    """Return the authorities that the owner of a leaf is to trust."""
    return x509.load_pem_x509_certificates(pem(found, f"ll-{leaf}-tls", "ca.crt"))


def test_an_authority_is_replaced_in_three_steps() -> None:
    """It is trusted, then it signs, then the one before goes; each step waits for an overlap, and writes no more."""
    found: dict[str, Json | None] = {}
    issue(found)
    first = pem(found, "ll-node-tls", "tls.crt")
    [old] = trusted(found, "node")
    ask(found, "node", "2026-11")
    assert sorted(issue(found, NOW)) == ["ll-node-ca", "ll-node-tls", "ll-operator-tls"]
    ask(found, "node", "2026-11")  # the API server keeps what people wrote
    assert pem(found, "ll-node-tls", "tls.crt") == first
    [kept, new] = trusted(found, "node")
    assert (kept, trusted(found, "operator")) == (old, [old, new])
    assert issue(found, NOW + OVERLAP - HOUR) == {}

    assert sorted(issue(found, NOW + OVERLAP)) == ["ll-node-ca", "ll-node-tls", "ll-operator-tls"]
    ask(found, "node", "2026-11")
    leaf = x509.load_pem_x509_certificate(pem(found, "ll-node-tls", "tls.crt"))
    leaf.verify_directly_issued_by(new)
    assert trusted(found, "node") == trusted(found, "operator") == [new, old]
    assert issue(found, NOW + 2 * OVERLAP - HOUR) == {}

    assert sorted(issue(found, NOW + 2 * OVERLAP)) == ["ll-node-ca", "ll-node-tls", "ll-operator-tls"]
    ask(found, "node", "2026-11")
    assert x509.load_pem_x509_certificate(pem(found, "ll-node-tls", "tls.crt")) == leaf
    assert trusted(found, "node") == [new]
    assert issue(found, NOW + 3 * OVERLAP) == {}
    assert len(trusted(found, "webhook")) == 1


def test_an_authority_that_ends_is_replaced_while_it_outlasts_what_it_signs() -> None:
    """Nobody has to ask: with 90 days for certificates and two overlaps of a week it begins 104 days before the end."""
    found: dict[str, Json | None] = {}
    issue(found)
    soon = NOW + datetime.timedelta(days=3650) - Lifetimes().authority_renew_before
    issue(found, soon - DAY)
    assert issue(found, soon - DAY) == {}
    assert {"ll-node-ca", "ll-webhook-ca"} <= set(issue(found, soon + DAY))
    assert len(trusted(found, "node")) == len(trusted(found, "webhook")) == 2
    issue(found, soon + DAY + OVERLAP)
    [signs, before] = trusted(found, "node")
    leaf = x509.load_pem_x509_certificate(pem(found, "ll-node-tls", "tls.crt"))
    leaf.verify_directly_issued_by(signs)
    assert leaf.not_valid_after_utc < signs.not_valid_after_utc
    assert before.not_valid_after_utc > soon + DAY + 2 * OVERLAP


def test_an_authority_that_has_ended_waits_for_nothing() -> None:
    """Whoever comes too late is not made to wait for an overlap of which nobody has anything."""
    found: dict[str, Json | None] = {}
    issue(found)
    late = NOW + datetime.timedelta(days=3651)
    issue(found, late)
    issue(found, late)
    leaf = x509.load_pem_x509_certificate(pem(found, "ll-node-tls", "tls.crt"))
    leaf.verify_directly_issued_by(trusted(found, "node")[0])
    assert trusted(found, "node")[0].not_valid_after_utc > late


def test_the_api_server_trusts_both_authorities_of_the_webhook() -> None:
    """Its bundle changes with the Secret, before the webhook shows a certificate of the new one."""
    found: dict[str, Json | None] = {}
    issue(found)
    ask(found, "webhook", "now")
    actions, bundle = plan_certificates(found, NAMES, "x", "ll", Lifetimes(), NOW)
    assert len(x509.load_pem_x509_certificates(bundle)) == 2
    assert [action.body["metadata"]["name"] for action in actions if isinstance(action, Apply)] == [
        "ll-webhook-ca",
        "ll-webhook-tls",
    ]


@pytest.mark.parametrize("step", range(4))
def test_at_each_step_old_and_new_files_trust_each_other(step: int, tmp_path: Path) -> None:
    """One node has the files of this step, another still those of the step before: both ways they shake hands."""
    found: dict[str, Json | None] = {}
    began = NOW - 4 * OVERLAP  # the handshake goes by the real clock
    issue(found, began)
    ask(found, "node", "now")
    states = [dict(found)]
    for number in range(4):
        issue(found, began + number * OVERLAP)
        ask(found, "node", "now")
        states.append(dict(found))
    nodes = [state["ll-node-tls"] for state in states[step : step + 2]]
    files = [_files(node, tmp_path / str(i)) for i, node in enumerate(nodes) if node is not None]
    for here, there in ((0, 1), (1, 0)):
        server = server_context(*files[there], require_client=True)
        assert _handshake(client_context(*files[here]), server)


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
