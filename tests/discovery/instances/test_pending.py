"""Results that many threads and tasks wait for, some of which give up."""

from __future__ import annotations

import asyncio
import time

import pytest

from registry_admin.discovery.instances.pending import Pending


def test_resolve_second_result_is_ignored():
    pending = Pending[int]()
    assert (pending.is_resolved, pending.result) == (False, None)
    pending.resolve(1)
    pending.resolve(2)
    assert (pending.is_resolved, pending.result) == (True, 1)


def test_wait_past_deadline_leaves_it_open_for_other_waiters():
    pending = Pending[int]()
    pending.wait(time.monotonic() - 1)
    pending.wait(time.monotonic() + 0.01)
    assert not pending.is_resolved
    pending.resolve(1)
    assert pending.result == 1


async def test_wait_async_cancelled_leaves_it_open_for_other_waiters():
    pending = Pending[int]()
    deadline = time.monotonic() + 3600
    patient, cancelled = (asyncio.create_task(pending.wait_async(deadline)) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not pending.is_resolved
    pending.resolve(1)
    await patient
