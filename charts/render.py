"""Renders what is made from the chart's sources: schema, table of values, copies of the definitions, manifests/.

``make manifests`` runs it; a test compares. Sources are values.yaml with its comments, manifests/crd and the templates.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "charts" / "leaderlease"
MANIFESTS: Final = ROOT / "manifests"
KUBE_VERSION: Final = "1.29.0"
NAMESPACE: Final = "leaderlease-system"
TABLE_BEGIN, TABLE_END = "<!-- values: begin -->", "<!-- values: end -->"
FREE_MAPS: Final = (
    r"(commonLabels|.*[lL]abels|.*[aA]nnotations|.*\.(nodeSelector|resources|affinity|namespaceSelector))"
)
"""Maps that hold what people want."""
ENUMS: Final = {
    r".*\.logLevel": ["debug", "info", "warning", "error"],
    r"images\.pullPolicy": ["Always", "IfNotPresent", "Never"],
    r".*\.topologySpread\..*": ["", "DoNotSchedule", "ScheduleAnyway"],
    r".*\.retention\..*": ["Retain", "Delete"],
    r"node\.updateStrategy\.type": ["RollingUpdate", "OnDelete"],
    r"webhook\.failurePolicy": ["Ignore", "Fail"],
    r"auth\.mode": ["tokens", "open"],
    r"tls\.mode": ["selfSigned", "job", "certManager", "existingSecret"],
}
RANGES: Final = {
    r"node\.replicas": (1, 9),
    r"operator\.replicas": (0, 9),
    r"webhook\.timeoutSeconds": (1, 30),
    r"operator\.resyncSeconds": (1, 86_400),
    r".*(bootstrapTimeoutSeconds|terminationGracePeriodSeconds|periodSeconds|failureThreshold)": (1, 3_600),
    r".*timeoutSeconds": (1, 60),
    r".*Days": (1, 36_500),
    r".*Hours": (1, 8_760),
    r".*": (0, 3_600),
}
PATTERNS: Final = {
    r"quorum\.clusterUID": "^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?$",
    r"quorum\.name": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
    r"(name|fullname)Override": "^([a-z]([-a-z0-9]*[a-z0-9])?)?$",
    r"images\..*\.repository": "^[a-z0-9][-a-zA-Z0-9._/:]*$",
    r"images\..*\.digest": "^(sha256:[0-9a-f]{64})?$",
    r"node\.persistence\.size": "^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$",
    r".*\.interval": "^([0-9]+(ms|s|m|h))+$",
    r"tls\.certManager\.(duration|renewBefore)": "^([0-9]+(s|m|h))+$",
    r"auth\.audience": "^[^ ]+$",
    r"operator\.podSelector": "^[^ ].*$",
}


def first(table: dict[str, Any], path: str) -> Any:
    """Return the value of the first pattern that matches a path; None if none does."""
    return next((value for pattern, value in table.items() if re.fullmatch(pattern, path)), None)


def descriptions(text: str) -> dict[str, str]:
    """Return path -> the sentence above it, from the comments that begin with `# --`."""
    found: dict[str, str] = {}
    path: list[str] = []
    told = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            told = stripped.removeprefix("# -- ")
        elif match := re.match(r"( *)([A-Za-z]+):", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            if told:
                found[".".join(path)] = told
            told = ""
    return found


def leaves(values: Any, told: dict[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, default) of every value that is documented as one."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict) and here not in told:
            yield from leaves(value, told, here)
        else:
            yield here, value


def schema(value: Any, told: dict[str, str], path: str = "") -> dict[str, Any]:
    """Return the JSON schema of one value and all below it."""
    description = {"description": told[path]} if path in told else {}
    if path.endswith(".minAvailable"):
        return {**description, "type": ["integer", "null"], "minimum": 1, "maximum": 9}
    if isinstance(value, dict):
        if path and re.fullmatch(FREE_MAPS, path):
            items = {"additionalProperties": {"type": "string"}} if re.search("(abels|nnotations)$", path) else {}
            return {**description, "type": "object", **items}
        if path == "tls.certManager.issuerRef":
            names = {name: {"type": "string"} for name in ("kind", "name", "group")}
            return {**description, "type": "object", "additionalProperties": False, "properties": names}
        below = {key: schema(part, told, f"{path}.{key}" if path else key) for key, part in value.items()}
        return {**description, "type": "object", "additionalProperties": False, "properties": below}
    if isinstance(value, bool):
        return {**description, "type": "boolean"}
    if isinstance(value, int):
        low, high = first(RANGES, path)
        return {**description, "type": "integer", "minimum": low, "maximum": high}
    if isinstance(value, list):
        return {**description, "type": "array", **_items(path)}
    if options := first(ENUMS, path):
        return {**description, "type": "string", "enum": options}
    pattern = first(PATTERNS, path)
    return {**description, "type": "string", **({"pattern": pattern} if pattern else {})}


def _items(path: str) -> dict[str, Any]:
    if path.endswith("Ports"):
        return {"items": {"type": "integer", "minimum": 1, "maximum": 65_535}, "minItems": 1}
    if path.endswith(("accessModes", "watchNamespaces")):
        return {"items": {"type": "string", "minLength": 1}, "uniqueItems": True}
    if path.endswith("pullSecrets"):
        name = {"type": "object", "additionalProperties": False, "properties": {"name": {"type": "string"}}}
        return {"items": {**name, "required": ["name"]}}
    return {"items": {"type": "object"}}


def render_schema() -> str:
    """Return values.schema.json."""
    text = (CHART / "values.yaml").read_text()
    root = schema(yaml.safe_load(text), descriptions(text))
    # What Helm itself hands to a chart that is a part of another.
    root["properties"]["global"] = {"type": "object", "description": "Of the charts that this one is a part of."}
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **root}, indent=2) + "\n"


def render_table() -> str:
    """Return the table of docs/chart.md."""
    text = (CHART / "values.yaml").read_text()
    told = descriptions(text)
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, value in leaves(yaml.safe_load(text), told):
        rows.append(f"| `{path}` | `{json.dumps(value)}` | {told.get(path, '')} |")
    return "\n".join(rows)


def render_docs() -> str:
    """Return docs/chart.md with the table of now."""
    before, _, rest = (ROOT / "docs" / "chart.md").read_text().partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    return f"{before}{TABLE_BEGIN}\n{render_table()}\n{TABLE_END}{after}"


def render_install() -> str:
    """Return manifests/install.yaml: the chart without Helm, and without its definitions and its test."""
    helm = shutil.which("helm")
    if helm is None:
        raise SystemExit("helm is not on PATH: manifests/ is rendered with it")
    command = [helm, "template", "leaderlease", str(CHART), "--namespace", NAMESPACE, "--kube-version", KUBE_VERSION]
    command += ["--values", str(MANIFESTS / "values.yaml"), "--no-hooks"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if found.returncode:
        raise SystemExit(found.stderr)
    body = found.stdout.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kustomize")
    return f"# Rendered from charts/leaderlease with manifests/values.yaml by `make manifests`: do not edit.\n{body}"


def outputs() -> dict[Path, str]:
    """Return every rendered file and its text; the schema must be written before the chart can be rendered."""
    copies = {CHART / "files" / "crds" / path.name: path.read_text() for path in (MANIFESTS / "crd").glob("*.yaml")}
    return {
        **copies,
        CHART / "values.schema.json": render_schema(),
        ROOT / "docs" / "chart.md": render_docs(),
        MANIFESTS / "install.yaml": render_install(),
    }


def main() -> None:
    """Write what differs."""
    (CHART / "values.schema.json").write_text(render_schema())
    for path, text in outputs().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"rendered {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
