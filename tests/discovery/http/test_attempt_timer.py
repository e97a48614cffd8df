"""The time of attempts: alarms, deadlines and what is awaited."""

from __future__ import annotations

import asyncio
import time

import pytest

from registry_admin.discovery.http.attempt_timer import AttemptTimer, LoopTimer, OvertakenError


async def test_awaited_future_fails_at_the_deadline_and_not_before():
    timer = LoopTimer(asyncio.get_running_loop())
    late, early = (AttemptTimer(timer, deadline=time.monotonic() + seconds) for seconds in (30, 0.05))
    waiting = asyncio.get_running_loop().create_future()
    with pytest.raises(TimeoutError):
        await early.watch(waiting)
    assert time.monotonic() >= early.deadline
    with pytest.raises(TimeoutError):
        early.watch(asyncio.get_running_loop().create_future())
    assert not late.watch(asyncio.get_running_loop().create_future()).done()
    for attempt in (late, early):
        attempt.close()
    assert not timer._attempts
    timer.close()


async def test_alarm_comes_once_before_the_deadline():
    timer, alarms = LoopTimer(asyncio.get_running_loop()), []
    now = time.monotonic()
    attempt = AttemptTimer(
        timer, deadline=now + 0.1, alarm_at=now + 0.03, on_alarm=lambda: alarms.append(time.monotonic())
    )
    with pytest.raises(TimeoutError):
        await attempt.watch(asyncio.get_running_loop().create_future())
    (alarm_at,) = alarms
    assert now + 0.03 <= alarm_at < now + 0.1
    attempt.close()


async def test_timer_that_fires_early_waits_for_the_rest():
    timer = LoopTimer(asyncio.get_running_loop())
    attempt = AttemptTimer(timer, deadline=time.monotonic() + 0.05)
    waiting = attempt.watch(asyncio.get_running_loop().create_future())
    timer._wake()
    assert not waiting.done()
    with pytest.raises(TimeoutError):
        await waiting
    attempt.close()


async def test_timer_of_many_attempts_is_one_handle():
    loop = asyncio.get_running_loop()
    timer, made = LoopTimer(loop), []
    call_later = loop.call_later
    loop.call_later = lambda *args: made.append(args) or call_later(*args)  # type: ignore[method-assign]
    for _ in range(100):
        AttemptTimer(timer, deadline=time.monotonic() + 30).close()
    assert len(made) == 1
    timer.close()


async def test_attempt_that_was_overtaken_ends_its_next_wait():
    attempt = AttemptTimer(LoopTimer(asyncio.get_running_loop()), deadline=time.monotonic() + 30)
    waiting = attempt.watch(asyncio.get_running_loop().create_future())
    attempt.end(OvertakenError())
    with pytest.raises(OvertakenError):
        await waiting
    with pytest.raises(OvertakenError):
        attempt.watch(asyncio.get_running_loop().create_future())
    attempt.close()
