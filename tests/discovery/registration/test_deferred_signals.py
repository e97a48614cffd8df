"""Signals that wait until the process has left Consul, with real ones."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from registry_admin.discovery.registration.deferred_signals import DeferredSignals
from tests.parts import wait_until

Install = Callable[[], DeferredSignals]


@pytest.fixture(autouse=True)
def received() -> Iterator[list[str]]:
    """What happened, in order; signals that aren't deferred are only recorded."""
    events: list[str] = []
    former = signal.signal(signal.SIGTERM, lambda *_: events.append("handled"))
    former_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    yield events
    signal.signal(signal.SIGTERM, former)
    signal.signal(signal.SIGINT, former_interrupt)


@pytest.fixture
def may_leave() -> threading.Event:
    """Set, unless the test wants leaving to last."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def install(received: list[str], may_leave: threading.Event) -> Iterator[Install]:
    def leave() -> None:
        may_leave.wait(10)
        received.append("left")

    signals = DeferredSignals(leave)

    def start() -> DeferredSignals:
        signals.install()
        return signals

    yield start
    signals.uninstall()


def test_signal_reaches_a_handler_that_was_set_before_when_the_process_has_left(install, received):
    install()
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: len(received) == 2)
    assert received == ["left", "handled"]


def test_signal_reaches_a_handler_that_is_set_later_when_the_process_has_left(install, received):
    install()
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append("handled later"))
    previous(signal.SIGTERM, None)
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: len(received) == 3)
    assert received == ["handled", "left", "handled later"]


def test_signal_that_is_repeated_meanwhile_waits_too(install, received, may_leave):
    may_leave.clear()
    install()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == []
    may_leave.set()
    wait_until(lambda: len(received) == 2)
    assert received == ["left", "handled"]


def test_signal_after_leaving_is_passed_on_at_once(install, received):
    install()
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: len(received) == 2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == ["left", "handled", "handled"]


def test_signal_of_a_process_with_many_open_files_reaches_its_handler(install, received):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    files = []
    try:
        while not files or files[-1] < 1024:
            files.append(os.dup(0))
        install()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(received) == 2)
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert received == ["left", "handled"]


def test_signal_in_an_event_loop_reaches_its_handler_when_the_process_has_left(install, received):
    install()

    async def run() -> None:
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stopped.wait(), 10)

    asyncio.run(run())
    assert received == ["left"]


def test_getsignal_returns_the_handler_of_the_program(install):
    handler = signal.getsignal(signal.SIGTERM)
    install()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # or asyncio would leave Ctrl-C alone
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ignored_signal_stays_ignored_by_the_kernel(install, received):
    signals = install()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals._getsignal(signal.SIGTERM) is signal.SIG_IGN
    assert received == []


def test_uninstall_gives_the_signals_back(install, received):
    original = signal.signal
    handler = signal.getsignal(signal.SIGTERM)
    signals = install()
    assert signal.signal is not original
    signals.uninstall()
    assert signal.signal is original
    assert signal.getsignal(signal.SIGTERM) is handler
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == ["handled"]


def test_install_in_a_thread_warns_and_changes_nothing(install, caplog):
    original = signal.signal
    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert signal.signal is original
    assert "registers in a thread" in caplog.text
