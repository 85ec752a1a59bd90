import asyncio
import gc

from gateway import clock


async def test_a_spawned_task_survives_the_collector():
    """The loop alone keeps only weak references."""
    done = asyncio.Event()

    async def work():
        await asyncio.sleep(0.02)
        done.set()

    clock.spawn(work(), "work")
    gc.collect()
    await asyncio.wait_for(done.wait(), 5)

    assert not any(task.get_name() == "work" for task in clock._running)


def test_time_goes_forward():
    """Monotonic seconds."""
    assert clock.monotonic() <= clock.monotonic()
