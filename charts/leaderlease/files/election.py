# What `helm test` runs: elect, read, release one lease, as a pod would, with nothing but its own token.
import asyncio
import os
from pathlib import Path

import leaderlease
from leaderlease.errors import LeaderLeaseError

DEADLINE_S = 90


def token():
    return Path("/var/run/secrets/leaderlease/token").read_text().strip()


async def elect(name):
    tls = (None, None, "/etc/leaderlease/tls/ca.crt")
    uid = os.environ["POD_UID"]
    async with leaderlease.connect(tls=tls, token=token, pod_uid=uid, name="helm-test", wait=60.0) as client:
        while True:
            try:
                lease = await client.acquire(name, "helm-test")
                break
            except LeaderLeaseError as error:
                print("not yet:", error)
                await asyncio.sleep(0.5)
        print(f"elected: {name}, term {lease.term}")
        found = await client.get(name)
        print("read:", found.holder.name, found.term)
        assert (found.holder.name, found.term) == ("helm-test", lease.term), found
        assert (await client.verify(name, lease.term)).is_current
        await lease.release()
        found = await client.get(name)
        print("released:", found.state, found.term)
        assert found.holder is None, found


async def main():
    async with asyncio.timeout(DEADLINE_S):
        await elect(os.environ["LEASE"])


asyncio.run(main())
