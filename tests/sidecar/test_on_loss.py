"""What docs/sidecar.md tells applications to do about a lost lease, done as it stands there."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from support.sidecars import PATIENCE_S, Sidecar, Sidecars, until

PAGE = Path(__file__).parents[2] / "docs" / "sidecar.md"
APPLICATION = "#!/bin/bash\ntrap 'echo down >> log; exit 0' TERM\necho up >> log\nwhile :; do sleep 0.02; done\n"


def _block(language: str, word: str) -> str:
    """Return the block of a language that contains a word."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [text for text in found if word in text]
    return str(block)


def _log(directory: Path) -> list[str]:
    path = directory / "log"
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def leader(sidecars: Sidecars, request: pytest.FixtureRequest) -> Sidecar:
    """A sidecar that leads, for a lease of its test's own."""
    lease = f"loss-{zlib.crc32(request.node.name.encode())}"
    made = sidecars.start("pod-a", lease, "--duration", "30s", "--step-down-grace", "60")
    made.until_leader()
    return made


def _step_down(leader: Sidecar) -> None:
    lease = leader.document()["lease"].partition("/")[2]
    assert leader.ask("POST", f"/v1/leases/{lease}/step-down").status == 202


def test_file_tells_whether_to_act(leader: Sidecar) -> None:
    """The lines of the page say yes while the sidecar leads, and no when it does not, or is gone."""

    def says() -> str:
        environment = {**os.environ, "LEADERLEASE_FILE": str(leader.file)}
        command = [sys.executable, "-S", "-c", _block("python", "may_act")]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    assert says() == "act"
    _step_down(leader)
    assert says() == "stand by"
    leader.terminate()
    assert says() == "stand by"


@pytest.mark.parametrize("loss", ["step-down", "kill"])
def test_shell_ends_the_application(leader: Sidecar, tmp_path: Path, loss: str) -> None:
    """The lines of the page start it when the sidecar leads, and end it when that leads no more or has died."""
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    application = tmp_path / "billing"
    application.write_text(APPLICATION)
    application.chmod(0o755)
    environment = {**os.environ, "LEADERLEASE_URL": f"http://127.0.0.1:{leader.port}"}
    command = ["bash", "-c", _block("sh", "LEADERLEASE_URL")]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True) as shell:
        try:
            until(lambda: _log(tmp_path) == ["up"], "the application runs")
            assert shell.poll() is None
            if loss == "kill":
                leader.kill()
            else:
                _step_down(leader)
            assert shell.wait(PATIENCE_S) == 0
            assert _log(tmp_path) == ["up", "down"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
