"""Budgets of the sidecar, measured: memory, time to the first answer, latency of ``GET /`` at a fixed rate.

    python bench/sidecar.py

Starts three nodes and one sidecar on 127.0.0.1. Latency is measured from the moment at which a request was due, so a
server that falls behind is not flattered; the load comes from this process, whose own delays count too.
"""

import argparse
import asyncio
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from leaderlease.cli.local import LocalQuorum

STARTS = 10
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start(endpoints: str, port: int, directory: Path, leases: int) -> tuple[subprocess.Popen[bytes], float]:
    """Start a sidecar; return it, and the milliseconds until it answered."""
    command = [sys.executable, "-m", "leaderlease", "sidecar", "--namespace", "bench", "--endpoints", endpoints]
    command += [
        "--listen",
        f"127.0.0.1:{port}",
        "--state-dir",
        str(directory),
        "--file",
        str(directory / "leader.json"),
    ]
    for number in range(leases):
        command += ["--lease", f"lease-{number}"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(REQUEST)
                connection.recv(4096)
            return process, (time.perf_counter() - began) * 1000
        except ConnectionRefusedError:
            time.sleep(0.001)


def memory(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Return the memory of a process in MiB, by the kernel's names."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return {key: int(kib) / 1024 for key, kib in re.findall(r"(VmRSS|VmHWM|RssAnon):\s+(\d+)", status)}


async def load(port: int, rate: float, seconds: float, connections: int) -> list[float]:
    """Send ``GET /`` at a fixed rate; return latencies in milliseconds, from the moment each was due."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    began = loop.time() + 0.1

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = began + number / rate
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            await reader.readexactly(int(length[1]))
            latencies.append((loop.time() - due) * 1000)
            due += connections / rate
        writer.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return latencies


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=1_000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--leases", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        quorum = LocalQuorum(Path(name) / "quorum", 3)
        process: subprocess.Popen[bytes] | None = None
        try:
            quorum.start()
            endpoints = ",".join(quorum.endpoints)
            firsts = []
            for number in range(STARTS):
                if process is not None:
                    process.terminate()
                    process.wait()
                port = free_port()
                process, first_ms = start(endpoints, port, Path(name) / f"state-{number}", arguments.leases)
                firsts.append(first_ms)
                time.sleep(0.2)
            assert process is not None
            print(f"first answer after start, ms: median {statistics.median(firsts):.0f}, worst {max(firsts):.0f}")
            time.sleep(1)
            before = memory(process)
            cpu_before = cpu_s(process)
            latencies = sorted(asyncio.run(load(port, arguments.rate, arguments.seconds, arguments.connections)))
            cpu = cpu_s(process) - cpu_before
            count = len(latencies)
            p50, p99, p999 = (latencies[min(count - 1, int(count * q))] for q in (0.5, 0.99, 0.999))
            print(
                f"GET / at {arguments.rate:g}/s, {count} requests, ms: p50 {p50:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f}"
            )
            print(f"CPU for each request: {cpu / count * 1e6:.0f} µs")
            after = memory(process)
            print(f"RSS, MiB: {before['VmRSS']:.1f} before, {after['VmRSS']:.1f} after, {after['VmHWM']:.1f} at most")
        finally:
            if process is not None:
                process.terminate()
                process.wait()
            quorum.stop()


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time that a process has used, in seconds, its parts that the kernel has counted."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main()
