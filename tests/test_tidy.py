"""House rules that no linter knows: sizes, docstrings, purity of the core. Each rule is shown to refuse."""

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "operator"
PACKAGE = SOURCE / "leaderlease"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_UNDOCUMENTED_LINES = 8

# Split, so that this file passes its own rule.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")
IMPURE_MODULES = frozenset({"datetime", "os", "random", "secrets", "time", "uuid"})
# Path prefixes (below the package) in which an import of the module is allowed.
KUBERNETES_IMPORTS = {"kopf": ("controller/",), "kubernetes": ("controller/", "cli/", "cli.py")}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str, str], Iterator[str]]
"""Takes the path below the package and the source; yields one line per offence."""


def _length(node: Function | ast.ClassDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def _is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}) for kind in caught
    )


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _public_definitions(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Yield public functions, classes and their public methods, but nothing inside a function."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from _public_definitions(node.body)


def long_files(path: str, source: str) -> Iterator[str]:
    """A file holds one idea."""
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        yield f"{path}: {lines} lines, at most {MAX_FILE_LINES}"


def long_functions(path: str, source: str) -> Iterator[str]:
    """A function fits a screen."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function) and _length(node) > MAX_FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {_length(node)} lines, at most {MAX_FUNCTION_LINES}"


def unfinished_notes(path: str, source: str) -> Iterator[str]:
    """What is left to do is an issue, not a comment."""
    for number, line in enumerate(source.splitlines(), start=1):
        if UNFINISHED.search(line):
            yield f"{path}:{number}: {line.strip()}"


def swallowed_exceptions(path: str, source: str) -> Iterator[str]:
    """A broad handler that does nothing hides bugs."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and all(map(_does_nothing, node.body)):
            yield f"{path}:{node.lineno}: a broad except that does nothing"


def missing_docstrings(path: str, source: str) -> Iterator[str]:
    """Everything public that is longer than a few lines says what it promises."""
    for node in _public_definitions(ast.parse(source).body):
        if _length(node) > MAX_UNDOCUMENTED_LINES and not ast.get_docstring(node):
            yield f"{path}:{node.lineno}: {node.name} has no docstring"


def impure_core(path: str, source: str) -> Iterator[str]:
    """The core gets time and randomness as arguments: replay would be impossible otherwise."""
    if not path.startswith("paxos/"):
        return
    tree = ast.parse(source)
    for line, module in _imported_modules(tree):
        if module.split(".")[0] in IMPURE_MODULES:
            yield f"{path}:{line}: imports {module}"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in IMPURE_MODULES
        ):
            yield f"{path}:{node.lineno}: calls {ast.unparse(node.func)}"


def misplaced_kubernetes(path: str, source: str) -> Iterator[str]:
    """Leases must live without an API server, so only the controller and the CLI may know one."""
    for line, module in _imported_modules(ast.parse(source)):
        top = module.split(".")[0]
        if top in KUBERNETES_IMPORTS and not path.startswith(KUBERNETES_IMPORTS[top]):
            yield f"{path}:{line}: imports {module}"


RULES: list[Rule] = [
    long_files,
    long_functions,
    unfinished_notes,
    swallowed_exceptions,
    missing_docstrings,
    impure_core,
    misplaced_kubernetes,
]


def test_source_root_is_not_a_package() -> None:
    """operator/__init__.py would shadow the stdlib module `operator` and break Python itself."""
    assert not (SOURCE / "__init__.py").exists()


def test_stdlib_operator_is_not_shadowed_from_the_repository_root() -> None:
    """A Python started in the repository root still finds the stdlib module `operator`."""
    subprocess.run([sys.executable, "-c", "import operator; assert operator.add(1, 2) == 3"], cwd=ROOT, check=True)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule: Rule) -> None:
    """The whole package keeps the rule; every offender is listed."""
    offences = [
        offence
        for file in sorted(SOURCE.rglob("*.py"))
        for offence in rule(
            file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else SOURCE).as_posix(),
            file.read_text(encoding="utf-8"),
        )
    ]
    assert not offences, "\n" + "\n".join(offences)


def test_tests_hold_no_unfinished_notes() -> None:
    """The tests keep the rule on unfinished notes too."""
    offences = [
        offence
        for file in sorted((ROOT / "tests").rglob("*.py"))
        for offence in unfinished_notes(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    ]
    assert not offences, "\n" + "\n".join(offences)


def _function(name: str, lines: int) -> str:
    return f"def {name}():\n" + "    x = 1\n" * (lines - 1)


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (long_files, "node/server.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
        (long_functions, "node/server.py", _function("_serve", MAX_FUNCTION_LINES + 1)),
        (unfinished_notes, "node/server.py", "x = 1  # TO" + "DO: more"),
        (swallowed_exceptions, "node/server.py", "try:\n    f()\nexcept Exception:\n    pass"),
        (swallowed_exceptions, "node/server.py", "try:\n    f()\nexcept (OSError, Exception) as e:\n    ..."),
        (swallowed_exceptions, "node/server.py", "try:\n    f()\nexcept:\n    pass"),
        (missing_docstrings, "node/server.py", _function("serve", MAX_UNDOCUMENTED_LINES + 1)),
        (missing_docstrings, "node/server.py", "class A:\n" + textwrap.indent(_function("run", 9), "    ")),
        (impure_core, "paxos/acceptor.py", "import time"),
        (impure_core, "paxos/acceptor.py", "from random import choice"),
        (impure_core, "paxos/acceptor.py", "x = time.time()"),
        (misplaced_kubernetes, "node/server.py", "def f():\n    import kopf"),
        (misplaced_kubernetes, "sidecar/agent.py", "from kubernetes.aio import client"),
    ],
)
def test_rule_refuses(rule: Rule, path: str, source: str) -> None:
    """A rule is worth what it rejects."""
    assert list(rule(path, source))


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (long_files, "node/server.py", "x = 1\n" * MAX_FILE_LINES),
        (long_functions, "node/server.py", _function("_serve", MAX_FUNCTION_LINES)),
        (unfinished_notes, "node/server.py", "method = 'TODOS'"),
        (swallowed_exceptions, "node/server.py", "try:\n    f()\nexcept OSError:\n    pass"),
        (swallowed_exceptions, "node/server.py", "try:\n    f()\nexcept Exception:\n    log()"),
        (missing_docstrings, "node/server.py", _function("serve", MAX_UNDOCUMENTED_LINES)),
        (missing_docstrings, "node/server.py", _function("_serve", MAX_UNDOCUMENTED_LINES + 1)),
        (impure_core, "paxos/acceptor.py", "from leaderlease.paxos import ballot"),
        (impure_core, "node/driver.py", "import time\ntime.monotonic()"),
        (misplaced_kubernetes, "controller/handlers.py", "import kopf"),
    ],
)
def test_rule_allows(rule: Rule, path: str, source: str) -> None:
    """A rule that refuses good code would be switched off soon."""
    assert not list(rule(path, source))


def test_imports_follow_the_layers() -> None:
    """The import contracts of pyproject.toml hold."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run([sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
