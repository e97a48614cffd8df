"""One answer for many who wait, some of whom lose patience."""

from __future__ import annotations

import asyncio
import time

import pytest

from registry_admin.discovery.asked import Asked


def test_the_first_answer_counts():
    asked = Asked[int]()
    assert (asked.is_settled(), asked.answer) == (False, None)
    asked.settle(1)
    asked.settle(2)
    assert (asked.is_settled(), asked.answer) == (True, 1)


def test_who_loses_patience_leaves_it_open_for_the_others():
    asked = Asked[int]()
    asked.wait(time.monotonic() - 1)
    asked.wait(time.monotonic() + 0.01)
    assert not asked.is_settled()


async def test_a_cancelled_task_leaves_it_open_for_the_others():
    asked = Asked[int]()
    far = time.monotonic() + 3600
    patient, cancelled = (asyncio.create_task(asked.wait_async(far)) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not asked.is_settled()
    asked.settle(1)
    await patient
