"""The rules of blocking queries, with a scripted reader: a real agent can't be made to let its index run backwards."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import pairwise

import pytest

from registry_admin.consul.api import ConsulReply
from registry_admin.consul.watch import FIRST_BACKOFF_S, MAX_BACKOFF_S, SHORTEST_CYCLE_S, WAIT_S, watch
from registry_admin.errors import ConsulUnavailableError

AWAY = ConsulUnavailableError("away")


class Stop(threading.Event):
    """Notes how long the watch wanted to wait, and doesn't wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0)
        return self.is_set()


class Script:
    """A reader that answers as it is told, then stops the watch; `took_s` passes on the clock with each answer."""

    def __init__(self, answers: Iterable[int | ConsulUnavailableError], *, took_s: float = 0.0) -> None:
        self.answers = list(answers)
        self.took_s = took_s
        self.indexes: list[int] = []
        self.waits_asked_for: set[float] = set()
        self.now = 0.0
        self.stop = Stop()
        self.errors: list[float] = []
        self.alive: list[int] = []  # how often it had been asked each time that it was found alive

    def read(self, index: int, wait_s: float) -> ConsulReply[int]:
        self.indexes.append(index)
        self.waits_asked_for.add(wait_s)
        answer = self.answers.pop(0)
        self.now += self.took_s
        if not self.answers:
            self.stop.set()
        if isinstance(answer, ConsulUnavailableError):
            raise answer
        return ConsulReply(data=answer, index=answer, known_leader=True, filtered_by_acls=False)

    def run(self, *, random_share: float = 1.0, **options: float) -> list[int]:
        replies = watch(
            self.read,
            stop=self.stop,
            on_error=lambda _error, pause: self.errors.append(pause),
            on_reply=lambda: self.alive.append(len(self.indexes)),
            wait_s=60,
            random_share=lambda: random_share,
            clock=lambda: self.now,
            **options,
        )
        return [reply.data for reply in replies]


def test_watch_yields_each_change_once_and_continues_from_its_index():
    script = Script([7, 7, 8, 8, 8, 9], took_s=60)
    assert script.run() == [7, 8, 9]
    assert script.indexes == [0, 7, 7, 8, 8, 8]
    assert script.waits_asked_for == {60}


def test_index_that_goes_backwards_starts_again_from_nothing():
    script = Script([90, 100, 3, 4], took_s=1)
    assert script.run() == [90, 100, 3, 4]
    assert script.indexes == [0, 90, 100, 0]


def test_without_an_index_it_is_asked_once_a_second_and_no_busier():
    script = Script([0, 0, 0])
    assert script.run() == [0, 0, 0]
    assert script.indexes == [0, 0, 0]
    assert script.stop.waits == [FIRST_BACKOFF_S] * 3


def test_index_that_moves_all_the_time_is_no_busy_loop():
    script = Script([1, 2, 3])
    script.run()
    assert script.stop.waits == [SHORTEST_CYCLE_S] * 3


def test_reply_that_took_its_time_is_followed_at_once():
    script = Script([1, 2, 3], took_s=60)
    script.run()
    assert script.stop.waits == []


def test_failures_make_growing_pauses_up_to_half_a_minute():
    script = Script([AWAY] * 8)
    assert script.run() == []
    assert script.errors == script.stop.waits
    assert script.errors == [1, 2, 4, 8, 16, MAX_BACKOFF_S, MAX_BACKOFF_S, MAX_BACKOFF_S]


def test_watch_pause_is_limited_by_max_backoff():
    script = Script([AWAY] * 5)
    script.run(max_backoff_s=5)
    assert script.errors == [1, 2, 4, 5, 5]


def test_pauses_are_jittered_between_half_and_whole():
    calm, hasty = Script([AWAY] * 6), Script([AWAY] * 6)
    calm.run(random_share=1.0)
    hasty.run(random_share=0.0)
    assert hasty.errors == [pause / 2 for pause in calm.errors]
    assert all(earlier < later for earlier, later in pairwise(hasty.errors))


def test_success_ends_the_growth_and_what_may_have_been_missed_is_yielded():
    script = Script([5, AWAY, AWAY, 5, AWAY, 5], took_s=2)
    assert script.run() == [5, 5, 5]
    assert script.errors == [1, 2, 1]
    assert script.indexes == [0, 5, 0, 0, 5, 0]


def test_every_reply_is_a_sign_of_life_whether_anything_changed_or_not():
    script = Script([5, 5, AWAY, 3, 0, 6, 6], took_s=2)
    assert script.run() == [5, 3, 0, 6]
    assert script.alive == [1, 2, 4, 5, 6, 7]


def test_consul_that_has_frozen_is_noticed_in_about_half_a_minute():
    asked = []

    def read(_index: int, wait_s: float) -> ConsulReply[int]:
        asked.append(wait_s)
        return ConsulReply(data=1, index=1, known_leader=True, filtered_by_acls=False)

    next(watch(read, stop=threading.Event()))
    assert asked == [WAIT_S]
    assert WAIT_S * 17 / 16 < 30, "Consul adds a sixteenth, and some builds break off a reply after 30 s"


def test_watch_that_is_stopped_before_it_begins_asks_nothing():
    script = Script([1])
    script.stop.set()
    assert script.run() == []
    assert script.indexes == []


def test_watch_raises_other_errors():
    def read(_index: int, _wait_s: float) -> ConsulReply[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(watch(read, stop=threading.Event()))
