"""Load balancers in front of several agents: for each connection or for each request, in turns or at random."""

from __future__ import annotations

import itertools
import random
import threading

from tests.parts.agent import ConsulAgent
from tests.parts.recorder import RecordingProxy
from tests.parts.tcp import FlakyProxy

Balancer = FlakyProxy | RecordingProxy
KINDS = ("connection in turns", "connection at random", "request in turns", "request at random")


def make_balancer(kind: str, *agents: ConsulAgent) -> Balancer:
    """Returns a running balancer of one of KINDS."""
    turns, lock, choice = itertools.cycle(agents), threading.Lock(), random.Random(13)

    def choose() -> ConsulAgent:
        with lock:
            return next(turns) if "turns" in kind else choice.choice(agents)

    if kind.startswith("connection"):
        return FlakyProxy(("", 0), choose=lambda: address(choose()))
    return RecordingProxy(agents[0], choose=choose).start()


def stop_balancer(balancer: Balancer) -> None:
    """Ends it."""
    if isinstance(balancer, FlakyProxy):
        balancer.close()
    else:
        balancer.stop()


def address(agent: ConsulAgent) -> tuple[str, int]:
    """Returns host and port of its API."""
    return agent.host, agent.port
