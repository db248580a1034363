"""What a process of the cluster says reaches the scheduler, or is counted: exactly."""

from __future__ import annotations

import asyncio
import sys
import threading

import orjson
import pytest

from scalable import facts
from scalable.instrumentation.outbox import RATES, Outbox, Rate
from scalable.instrumentation.process_resource import ProcessResource
from scalable.instrumentation.relay_values import encode


def known_resource() -> ProcessResource:
    resource = ProcessResource()
    resource.wait()
    return resource


KIND = facts.RELAY_LOGS


@pytest.fixture
def eager_switches():
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_what_threads_drop_while_the_loop_counts_is_counted_exactly(eager_switches, monkeypatch):
    monkeypatch.setitem(RATES, KIND, Rate(0.0, 100.0))
    made, threads = 20_000, 3
    kept = lost = 0

    def sent(reports):
        nonlocal kept, lost
        for _, (_, _, _, number, payload, dropped) in reports:
            assert len(orjson.loads(payload)["items"]) == number
            kept += number
            lost += dropped

    async def main():
        outbox = Outbox(asyncio.get_running_loop(), str, sent, known_resource())

        def flood():
            item = encode({"body": "x"})
            for _ in range(made // 2):
                outbox.put(KIND, "run", item)
            for _ in range(made // 200):
                outbox.drop(KIND, "run", 100)

        running = [threading.Thread(target=flood) for _ in range(threads)]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            outbox.flush()
            await asyncio.sleep(0)
        outbox.close()

    asyncio.run(main())
    assert kept + lost == made * threads
    # The bound is one on a flow: threads may take the same token.
    assert 100 <= kept <= 100 * threads


def test_nothing_is_sent_where_nothing_waits():
    sent = []

    async def main():
        outbox = Outbox(asyncio.get_running_loop(), str, sent.append, known_resource())
        outbox.drop(KIND, None, 2)
        assert outbox.waiting
        outbox.flush()
        assert not outbox.waiting
        outbox.flush()
        outbox.close()

    asyncio.run(main())
    ((_, (_, _, _, number, _, lost)),) = sent[0]
    assert (number, lost, len(sent)) == (0, 2, 1)
