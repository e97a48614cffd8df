"""Watching that callers always find an instance: a poller of Consul's passing instances."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import requests

from tests.parts.agent import ConsulAgent

EVERY_S = 0.005


class PassingPoller:
    """Asks Consul every 5 ms for the passing instances of a service, from entering the block to its end.

    `seen` has the sets of instance IDs in the order in which they were first seen; a repetition of the last isn't kept.
    """

    def __init__(self, agent: ConsulAgent, service: str) -> None:
        self.seen: list[frozenset[str]] = []
        self._url = f"{agent.url}/v1/health/service/{service}?passing"
        self._stop = threading.Event()
        self._started = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._poll, daemon=True)

    @property
    def lowest(self) -> int:
        """The smallest number of passing instances that was seen."""
        return min(map(len, self.seen))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        if error is None and self._error is not None:
            raise self._error

    def _poll(self) -> None:
        try:
            with requests.Session() as session:
                session.trust_env = False
                while True:
                    entries = session.get(self._url, timeout=10).json()
                    passing = frozenset(entry["Service"]["ID"] for entry in entries)
                    if not self.seen or self.seen[-1] != passing:
                        self.seen.append(passing)
                    self._started.set()
                    if self._stop.wait(EVERY_S):
                        return
        except Exception as error:  # noqa: BLE001 - raised again at the end of the block
            self._error = error
            self._started.set()
