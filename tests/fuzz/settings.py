"""Everything that people write: flags, files, manifests, declarations. Taken as it was meant, or refused in words.

A refusal is ``ConfigError`` or click's own error and says what is wrong. What is taken survives: durations and names as
texts, manifests as YAML.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
import msgspec
import yaml

from fuzz.codec import changed
from fuzz.source import Source
from leaderlease.cli import inject as injecting
from leaderlease.cli import node as node_command
from leaderlease.cli.sidecar import configure, sidecar
from leaderlease.client.endpoints import parse_endpoints
from leaderlease.controller.inject import Injection
from leaderlease.controller.own_quorum import read_own_quorum
from leaderlease.controller.parameters import read_parameters
from leaderlease.controller.resource import declaration, lease_spec
from leaderlease.errors import ConfigError
from leaderlease.node.auth import encode_keys
from leaderlease.node.config import check_config, parse_address, parse_peers
from leaderlease.node.specs import check_spec
from leaderlease.paxos.lease import format_duration, parse_duration, parse_name, parse_span
from leaderlease.sidecar.config import parse_gate, parse_listen
from leaderlease.wire.session import Spec

_scratch = tempfile.TemporaryDirectory(prefix="fuzz-settings-")
FILE = Path(_scratch.name) / "file"
INJECTION = Injection(image="agent:1", endpoints=("node-0:7400",), ca="-----BEGIN CERTIFICATE-----", audience="a")

NODE_FILE = """name = "node-0"
data = "/var/lib/leaderlease"
cluster = "6f1c1a52-6a3c-4b0f-8a0b-2f0c7d9e1a11"
bootstrap = true
bootstrap_timeout = 1.5
listen-client = "127.0.0.1:7400"
listen_http = "[::1]:0"
auto_declare = false
auth = "open"
log_level = "info"
[peers]
node-0 = "127.0.0.1:7401"
node-1 = "127.0.0.2:7401"
"""
NODE_ARGUMENTS = (
    "--name", "node-0", "--data", "/tmp/x", "--peers", "node-0=127.0.0.1:7401,node-1=h:7401", "--listen-http", "",
    "--cluster", "6f1c1a52-6a3c-4b0f-8a0b-2f0c7d9e1a11", "--bootstrap", "--auth", "tokens", "--tls-cert", "c",
    "--tls-key", "k", "--tls-ca", "a", "--bootstrap-timeout", "3", "--log-level", "debug",
)  # fmt: skip
SIDECAR_ARGUMENTS = (
    "--lease", "first", "--lease", "second,third", "--namespace", "shop", "--identity", "pod-a", "--endpoints", "a:1,b",
    "--duration", "3s", "--listen", ":4040", "--listen-pod", "0.0.0.0:4041", "--health", "http://127.0.0.1:8080/healthz?a=b",
    "--health-period", "1", "--health-timeout", "0.5", "--health-failures", "3", "--health-successes", "1",
    "--drain", "tcp://127.0.0.1:80", "--drain-timeout", "25", "--step-down-grace", "2", "--stale-after", "10",
    "--successor-preference", "none", "--tls-ca", "a",
)  # fmt: skip
MANIFEST = """apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: shop}
spec:
  template:
    metadata:
      labels: {app: x, leaderlease.dev/inject: billing.other}
      annotations:
        leaderlease.dev/health-http: 8080/healthz
        leaderlease.dev/drain: health
        leaderlease.dev/drain-seconds: "12.5"
        leaderlease.dev/resources-limits-memory: 64Mi
        leaderlease.dev/lease: "a, b"
    spec:
      terminationGracePeriodSeconds: 30
      containers:
      - name: app
        image: app:1
        ports: [{containerPort: 8080, name: http}]
        env: [{name: A, value: "1"}]
"""
QUORUM = """apiVersion: leaderlease.dev/v1alpha1
kind: LeaderQuorum
metadata: {name: default, labels: {leaderlease.dev/operator: x}}
spec: {endpoints: ["a:7400"], replicas: 3}
"""
LEASE = {
    "quorum": "default", "leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "500ms", "lockDelay": "0s",
    "mode": "Active", "candidates": {"podSelector": {"matchLabels": {"a": "b"}}, "serviceAccountNames": ["x"]},
    "preference": {"policy": "Priority", "noFailback": "1m"},
    "leaderService": {"name": "s", "ports": [{"name": "p", "port": 80, "targetPort": 8080}]},
}  # fmt: skip
JWKS = b'{"keys": [{"kty": "RSA", "kid": "1", "n": "sXch", "e": "AQAB"}, {"kty": "EC", "kid": "2", "crv": "P-256"}]}'
TEXTS = (
    "1m30s", "0.5h", "750ms", "never", "3", "9" * 400 + "s", "shop/billing", "127.0.0.1:7400", "[::1]:7400",
    "a=h:1,b=h:2", ":4040", "http://h:1/x?y", "tcp://h:1", "exec:a 'b c'", "host", "a:1,b:2", "9" * 30 + "s", "1e3",
    "\u0661s", "h:\u00b2", "h:" + "9" * 5_000,
)  # fmt: skip


def _written(data: str) -> Path:
    FILE.write_bytes(data.encode("utf-8", "surrogateescape"))
    return FILE


# --- what is tried ----------------------------------------------------------------------------------------------


def _texts(source: Source) -> None:
    """Single values, as flags and fields hold them."""
    text = _mangled(source, source.choice(TEXTS))
    for parse in (
        lambda: _expect(parse_duration(text), lambda found: parse_duration(format_duration(found)) == found),
        lambda: parse_duration(text, "--wait"),
        lambda: parse_span(text, "lock_delay", 50, 3_600_000),
        lambda: _expect(parse_name(text), lambda found: "/".join(found) == text),
        lambda: parse_address(text, "--listen-peer"),
        lambda: parse_peers(text),
        lambda: parse_listen("--listen", text),
        lambda: parse_gate(text),
        lambda: parse_endpoints(text),
    ):
        _try(parse)


def _node_file(source: Source) -> None:
    _run(node_command.node, ["--config", str(_written(_mangled(source, NODE_FILE)))])


def _node_values(source: Source) -> None:
    """A file in which the values have other types than they should."""
    keys = [line.partition(" = ")[0] for line in NODE_FILE.splitlines()[:10]]
    values = (
        "1",
        "-1",
        "true",
        '""',
        '"x"',
        "1.5",
        "nan",
        "inf",
        "[1]",
        "{a = 1}",
        "2020-01-01",
        "[]",
        "07:32:00",
        '["a=b:1"]',
    )
    lines = [f"{source.choice((*keys, 'peers'))} = {source.choice(values)}"]
    kept = [line for line in NODE_FILE.splitlines()[:10] if not line.startswith(lines[0].partition(" ")[0])]
    peers = [] if lines[0].startswith("peers") else ["[peers]", 'node-0 = "h:1"']
    _run(node_command.node, ["--config", str(_written("\n".join([*kept, *lines, *peers])))])


def _arguments(source: Source, command: click.Command, arguments: tuple[str, ...]) -> None:
    found = list(arguments)
    for _ in range(source.whole(1, 3)):
        at = source.whole(0, len(found) - 1)
        match source.whole(0, 3):
            case 0:
                found[at] = _mangled(source, found[at])
            case 1:
                found[at] = source.choice(TEXTS)
            case 2:
                del found[at]
            case _:
                found.insert(at, found[source.whole(0, len(found) - 1)])
        found = found or ["x"]
    _run(command, [one.replace("--help", "--hepl").replace("--version", "").replace("\0", "") for one in found])


def _manifest(source: Source) -> None:
    text = _mangled(source, MANIFEST)
    _try(lambda: _documents(text))


def _reshaped(source: Source, tree: Any) -> Any:
    """Return a tree of mappings and lists in which one place holds something else."""
    if isinstance(tree, dict) and tree and not source.chance(6):
        key = source.choice(tuple(tree))
        return {**tree, key: _reshaped(source, tree[key])}
    if isinstance(tree, list) and tree and not source.chance(6):
        at = source.whole(0, len(tree) - 1)
        return [*tree[:at], _reshaped(source, tree[at]), *tree[at + 1 :]]
    return source.choice(
        (None, 1, -1, 2.5, True, "", "x", "a.b", "8080", [], {}, ["x"], {"x": "y"}, [None], [[]], {"x": None})
    )


def _manifest_of_another_shape(source: Source) -> None:
    tree = yaml.safe_load(MANIFEST)
    for _ in range(source.whole(1, 2)):
        tree = _reshaped(source, tree)
    _try(lambda: _documents(yaml.safe_dump(tree)))


def _quorum_of_another_shape(source: Source) -> None:
    tree = _reshaped(source, yaml.safe_load(QUORUM))
    _try(lambda: read_own_quorum(_written(yaml.safe_dump(tree))))


def _documents(text: str) -> None:
    text = text if text.endswith("\n") else text + "\n"
    parts = list(injecting._documents(text))
    assert "".join(parts) == text, "a stream lost something when it was split"
    for part in parts:
        written, found = injecting._inject_document(part, INJECTION, "", "default")
        if found:
            again, more = injecting._inject_document(written, INJECTION, "", "default")
            assert (again, more) == (written, []), "what was injected is injected again"
            assert isinstance(yaml.safe_load(written), dict)
        else:
            assert written == part, "a document that is none of ours was changed"


def _pod(source: Source) -> None:
    """Annotations of any text, as the webhook gets them: strings, for the API server checks that."""
    pod = yaml.safe_load(MANIFEST)["spec"]["template"]
    annotations = pod["metadata"]["annotations"]
    key = source.choice((*annotations, "leaderlease.dev/port", "leaderlease.dev/run-as-user", "leaderlease.dev/x"))
    annotations[key] = _mangled(source, source.choice((annotations.get(key, "1"), *TEXTS)))
    pod["metadata"]["labels"]["leaderlease.dev/inject"] = _mangled(source, "billing.other")
    _try(lambda: read_parameters(pod))


def _quorum(source: Source) -> None:
    _try(lambda: read_own_quorum(_written(_mangled(source, QUORUM))))


def _declared(source: Source) -> None:
    """A LeaderLease of any content: the schema is ours, so another type is msgspec's error, and a value is ours."""
    tree: dict[str, Any] = {**LEASE}
    for _ in range(source.whole(1, 3)):
        key = source.choice(tuple(LEASE))
        tree[key] = _mangled(source, str(LEASE[key])) if source.chance(2) else changed(source, LEASE[key])
    try:
        spec = lease_spec({"spec": tree})
    except msgspec.ValidationError:
        return
    found = _try(lambda: declaration(spec, []))
    if found is not None:
        _try(lambda: check_spec(found))


def _spec(source: Source) -> None:
    """A declaration that the codec takes, as ``declare`` sends it."""
    fields = msgspec.to_builtins(Spec(3_000, 0, ("a",), "Active", ("b",), ("c",), "", 2_000, 500, "Priority", 60_000))
    for _ in range(source.whole(1, 3)):
        fields = changed(source, fields)
    try:
        spec = msgspec.convert(fields, Spec)
    except msgspec.ValidationError:
        return
    _try(lambda: check_spec(spec))


def _keys(source: Source) -> None:
    data = bytearray(JWKS)
    for _ in range(source.whole(1, 4)):
        at = source.whole(0, len(data) - 1)
        data[at : at + source.whole(0, 4)] = source.take(source.whole(0, 6))
    _try(lambda: encode_keys("issuer", "audience", bytes(data)))


KINDS: tuple[Callable[[Source], None], ...] = (
    _texts,
    _node_file,
    _node_values,
    lambda source: _arguments(source, node_command.node, NODE_ARGUMENTS),
    lambda source: _arguments(source, sidecar, SIDECAR_ARGUMENTS),
    _manifest,
    _manifest_of_another_shape,
    _quorum_of_another_shape,
    _pod,
    _quorum,
    _declared,
    _spec,
    _keys,
)


# --- how it is judged -------------------------------------------------------------------------------------------


def _mangled(source: Source, text: str) -> str:
    """Return a text with some places changed."""
    data = bytearray(text.encode())
    for _ in range(source.whole(0, 3)):
        at = source.whole(0, len(data))
        match source.whole(0, 5):
            case 0:
                del data[at : at + source.whole(1, 16)]
            case 1:
                data[at:at] = source.take(source.whole(1, 8))
            case 2:
                data[at : at + source.whole(0, 8)] = source.choice(TEXTS).encode()
            case 3:
                piece = data[at : at + source.whole(1, 24)]
                data[at:at] = bytes(piece) * source.choice((1, 2, 3, 200))
            case 4:
                data[at : at + 1] = source.choice(
                    (b"\n", b"\0", b"\t", b":", b"&a ", b"*a ", b"{", b"[", b"- ", b"\xff", b"'")
                )
            case _:
                data[at:at] = source.choice((b"[", b"{", b"[{", b"a: ", b"- ")) * source.choice((1, 50, 1_500))
    return bytes(data).decode("utf-8", "replace").replace("\0", "" if source.chance(2) else "\0")


def _expect(found: Any, is_right: Callable[[Any], bool]) -> None:
    assert is_right(found), found


def _try(work: Callable[[], Any]) -> Any:
    """Run; a refusal is judged, anything else that is raised is a finding."""
    try:
        return work()
    except ConfigError as error:
        _judge(str(error))
    except click.ClickException as error:
        _judge(error.format_message())
    return None


def _judge(text: str) -> None:
    assert re.match(r"\S+.*[:\s]", text, re.DOTALL), f"a refusal that says nothing: {text!r}"
    assert "Traceback" not in text
    assert "object at 0x" not in text


def _run(command: click.Command, arguments: list[str]) -> None:
    def work() -> None:
        with command.make_context(command.name or "", list(arguments)) as context:
            if command is sidecar:
                settings = dict(context.params)
                del settings["log_level"]
                configure(settings)
            elif not context.protected_args and not context.args:
                command.invoke(context)

    # What a node would do with settings that are sound needs a disk and a network: it has tests of its own.
    with mock.patch.object(node_command, "run_node", check_config):
        _try(work)


def one_input(data: bytes) -> None:
    """One thing that people write, with parts changed."""
    source = Source(data)
    source.choice(KINDS)(source)


SAMPLES = tuple(bytes([0, number]) for number in range(len(TEXTS))) + tuple(
    bytes([kind]) + bytes((index * step + shift) % 256 for index in range(48))
    for kind in range(len(KINDS))
    for step, shift in ((1, 0), (7, 3), (31, 11), (101, 5))
)
