"""What a blank member does before it is one (``node/bootstrap.py``)."""

import asyncio

from leaderlease.node.bootstrap import store_configuration
from leaderlease.paxos.membership import MEMBER_KEY, first_configuration, read_configuration
from leaderlease.storage.memory import MemoryDisk, MemoryStorage
from support.nodes import CLUSTER

CONFIGURATION = first_configuration(CLUSTER, {uuid: (uuid, f"{uuid}:7401") for uuid in "abc"})


async def test_h28_a_member_begins_when_its_configuration_is_durable() -> None:
    """R8: or it would vote, lose its power, and be blank again; it is the member register and what a start reads."""
    disk = MemoryDisk("a")
    storage = MemoryStorage(disk)
    storing = asyncio.create_task(store_configuration(storage, CONFIGURATION))
    await asyncio.sleep(0)
    assert not storing.done(), "nothing is on the disk yet"
    storage.flush()
    assert await storing == CONFIGURATION
    storage.crash()
    loaded = MemoryStorage(disk).load()
    assert loaded.configuration == CONFIGURATION
    (record,) = [record for record in loaded.records if record.key == MEMBER_KEY]
    assert record.value is not None
    assert read_configuration(record.value) == CONFIGURATION
