"""A process that writes for ever and prints what was acknowledged, to be killed: `... DIRECTORY FIRST [BYTES_MAX]`.

One line per acknowledged record, `<register> <counter>`; one line `failed: <error>` when the disk fails. With
BYTES_MAX no file may grow beyond it: every disk is full sooner or later.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "operator")]

from leaderlease.errors import StorageError  # noqa: E402  (after the path is set)
from leaderlease.storage.sqlite import open_storage  # noqa: E402
from support.disks import record  # noqa: E402

REGISTERS = 50
IN_FLIGHT = 20


async def main(directory: Path, counter: int, bytes_max: int) -> None:
    """Keep some records in flight until the disk fails or somebody kills this process."""
    failed = asyncio.Event()

    def _say(line: str) -> None:
        os.write(1, f"{line}\n".encode())

    def _on_failure(error: StorageError) -> None:
        _say(f"failed: {error}")
        failed.set()

    storage = open_storage(directory, asyncio.get_running_loop().call_soon_threadsafe, _on_failure)
    if bytes_max:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, resource.RLIM_INFINITY))

    def _next() -> None:
        nonlocal counter
        counter += 1
        key, mine = f"l/{counter % REGISTERS}", counter

        def _durable() -> None:
            _say(f"{key} {mine}")
            _next()

        storage.append(record(key, mine), _durable)

    for _ in range(IN_FLIGHT):
        _next()
    await failed.wait()
    # The disk has room again; what failed once must stay silent all the same.
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    _next()
    storage.close()
    _say("closed")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0))
