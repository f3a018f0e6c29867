"""Run one check of the model by hand, and see all that TLC says: states, time, and the counterexample if there is one.

    python tests/model/by_hand.py                   the names
    python tests/model/by_hand.py noguard           a rule left out: the shortest schedule that breaks it
    python tests/model/by_hand.py "all of time"     a large configuration, on all cores (make model-large)

Ends with TLC's exit code.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from model.configurations import CHECKS, LARGE, Check  # noqa: E402  (after the path is set)
from support import tlc  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="", help="a configuration or a rule to leave out")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    checks = {**CHECKS, **{name: Check(configuration) for name, configuration in LARGE.items()}}
    if options.name not in checks:
        print("\n".join(checks))
        return int(bool(options.name))
    if lack := tlc.missing():
        print(f"by_hand: {lack}", file=sys.stderr)
        return 2
    configuration, mutant = checks[options.name]
    with tempfile.TemporaryDirectory() as work:
        command = tlc.prepare(configuration.module, configuration.text(mutant), Path(work), workers=options.workers)
        return subprocess.run(command, cwd=work, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
