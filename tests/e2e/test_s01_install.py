"""Installation, the example, `helm test`, uninstallation, and another installation on the same disks."""

import json

from support import e2e
from support.e2e_report import Report

READY_S = 60.0
ASK = "import urllib.request; print(urllib.request.urlopen('http://localhost:4040/').read().decode())"
MINE = "app.kubernetes.io/instance=leaderlease"
EXAMPLE = e2e.ROOT / "examples" / "billing.yaml"
KEPT = {
    "CustomResourceDefinition": "with all LeaderLeases",
    "PersistentVolumeClaim": "with the promises of the nodes",
    "Secret": "the authority that running sidecars trust",
}
"""What an uninstallation keeps, and why."""


def test_install_example_uninstall_install(images: None, report: Report) -> None:
    """Ready within a minute, one command to the first leader, nothing left over, and terms go on rising."""
    e2e.uninstall()
    took = e2e.install()
    with e2e.namespace("e2e-example") as space:
        example = EXAMPLE.read_text().replace("leaderlease/agent:0.1.0", f"{e2e.IMAGES['agent']}:{e2e.TAG}")
        e2e.kubectl("apply", "-n", space, "-f", "-", stdin=example)
        e2e.kubectl("wait", "ll/billing", "-n", space, "--for=condition=Ready", "--timeout=60s")
        e2e.kubectl("rollout", "status", "deployment/billing", "-n", space, "--timeout=60s")
        first = e2e.get("ll", "billing", "-n", space)["status"]
        table = e2e.kubectl("get", "ll", "-A")
        print(table)
        heading, row = table.splitlines()[0], next(row for row in table.splitlines() if row.startswith(space))
        assert heading.split() == ["NAMESPACE", "NAME", "HOLDER", "TERM", "READY", "SINCE", "AGE"]
        assert row.split()[:5] == [space, "billing", first["holder"]["podName"], str(first["term"]), "True"]
        answer = json.loads(e2e.kubectl("exec", "deploy/billing", "-n", space, "-c", "app", "--", "python3", "-c", ASK))
        print(answer)
        assert (answer["leader"], answer["term"]) == (first["holder"]["podName"], first["term"])
        print(e2e.run("helm", "test", e2e.RELEASE, "-n", e2e.NAMESPACE, "--timeout", "120s"))

        e2e.uninstall()
        left = e2e.all_objects(MINE)
        print("left over:", sorted(left))
        assert {kind for kind, _ in left} <= KEPT.keys()

        again = e2e.install()
        e2e.settle()
        e2e.until("the example goes on", lambda: term(space) > first["term"], 60)
        e2e.kubectl("wait", "ll/billing", "-n", space, "--for=condition=Ready", "--timeout=60s")
    report.add(
        "1 install", seconds=round(took, 1), again_s=round(again, 1), bound=READY_S, kept=sorted(map(list, left))
    )
    assert took < READY_S
    assert again < READY_S


def term(space: str) -> int:
    """Return the term of the example's lease."""
    return int(e2e.get("ll", "billing", "-n", space)["status"]["term"])
