"""`scripts/bench sync`: registering, passes that find nothing, the mirror, and how soon an edit by hand is repaired."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.figures import Figure, in_turns, seconds
from scripts.benchmarks.parts import Parts
from scripts.run_everything.settings import RunError

if TYPE_CHECKING:
    from registry_admin.inventory.sync.reconciler import Comparison

SIZES = {100: 5, 1000: 3, 10_000: 1}  # number of instances: rounds of registering them
QUICK_SIZES = {100: 1, 300: 1}
PATIENCE_S = 60.0
MB = 1024


def measure(parts: Parts, *, quick: bool) -> list[Figure]:
    """Returns all figures; takes about five minutes, most of them for registering 10,000 instances twice."""
    parts.use_postgres()
    sizes = QUICK_SIZES if quick else SIZES
    largest, smallest = max(sizes), min(sizes)
    rounds = 3 if quick else 7
    edits = 3 if quick else 20
    registering, converging = [], []
    for count, times in sizes.items():
        parts.say(f"Registering {count:,} instances, {times} time(s) each way")
        registering.append(register(parts, count, times))
        if count in (smallest, largest):
            parts.say(f"Converging at {count:,}")
            converging += converged(parts, count, rounds) if count == largest else []
            converging += watched(parts, count, edits, is_largest=count == largest)
    return registering + converging


def register(parts: Parts, count: int, rounds: int) -> Figure:
    """Measures registrations a second on an empty agent: their cost grows with the number of registered instances."""
    from scripts.benchmarks import floors, ours  # noqa: PLC0415 - Django is set up by now

    ours.declare(count)
    parts.empty_consul()
    comparison = ours.compare()
    bodies = ours.bodies(comparison)
    if len(bodies) != count:
        raise RunError(f"The plan registers {len(bodies)} instances and not {count}.")

    def seconds_on_empty_agent(action: Callable[[], object]) -> float:
        parts.empty_consul()
        duration = seconds(action)
        registered = len(parts.request("GET", "/v1/agent/services"))
        if registered != count:
            raise RunError(f"Of {count} instances, {registered} were registered.")
        return duration

    floor, own = in_turns(
        rounds,
        lambda: seconds_on_empty_agent(lambda: floors.register(parts.connect, bodies)),
        lambda: seconds_on_empty_agent(lambda: ours.apply(comparison)),
    )
    return Figure(
        name=f"registering {count:,}",
        value=count / own,
        floor=count / floor,
        unit="/s",
        goal=0.9 if count >= 1000 else None,
        at_least=True,
        rounds=rounds,
    )


def converged(parts: Parts, count: int, rounds: int) -> list[Figure]:
    """Measures a pass without changes, and writes of the mirror, once Consul matches the declarations."""
    from scripts.benchmarks import floors, ours  # noqa: PLC0415

    ours.make_pass()
    if ours.make_pass():
        raise RunError("A second pass still found something to do.")
    connection = parts.connect()
    floor, own = in_turns(
        rounds,
        lambda: seconds(lambda: floors.read_both_sides(connection)),
        lambda: seconds(ours.make_pass),
    )
    connection.close()
    writes = ours.mirror_writes(ours.make_pass)
    rows, comparison = floors.mirrored_rows(), ours.compare()
    turn = iter(range(rounds))
    unnest, mirroring = in_turns(
        rounds,
        lambda: seconds(lambda: floors.write_mirror(rows)),
        lambda: _time_mirror(comparison, next(turn)),
    )
    return [
        _ms(f"a pass that finds nothing at {count:,}", own, floor=floor, goal=1.5, rounds=rounds),
        _ms(f"the mirror when all {count:,} changed", mirroring, floor=unnest, goal=1.5, rounds=rounds),
        Figure(name="writes when nothing changed", value=writes, unit="statements", goal=0),
    ]


def _time_mirror(comparison: Comparison, turn: int) -> float:
    from scripts.benchmarks import ours  # noqa: PLC0415

    changed = ours.with_check_output(comparison, output=f"round {turn}")
    return seconds(lambda: ours.write_mirror(changed))


def watched(parts: Parts, count: int, edits: int, *, is_largest: bool) -> list[Figure]:
    """Measures a watcher: time to revert an edit by hand, and its memory or the time to refill an empty agent."""
    pid = parts.start_watcher()
    _wait_until(
        lambda: _runs() > 0 and len(parts.request("GET", "/v1/agent/services")) == count, "the watcher's first pass"
    )
    durations = []
    for number in range(edits):
        durations.append(_repair(parts, f"instance-{number * count // edits}"))
        time.sleep(0.3 + count / 5000)  # so that each edit comes after quiet, as a person's does
    figures = [
        _ms(
            f"from an edit to repaired at {count:,}",
            median(durations),
            goal=400 if count >= 10_000 else 60,
            rounds=edits,
        )
    ]
    if is_largest:
        figures.append(Figure(name=f"the watcher's memory at {count:,}", value=_peak_mb(pid), unit="MB", goal=200))
    else:
        parts.empty_consul()
        back = seconds(
            lambda: _wait_until(lambda: len(parts.request("GET", "/v1/agent/services")) == count, "all to be back")
        )
        figures.append(Figure(name=f"all {count:,} back on an empty agent", value=back, unit="s", goal=5))
    parts.stop_watcher()
    return figures


def _repair(parts: Parts, instance_id: str) -> float:
    """Seconds from the agent's reply to an edit until the agent has the declared tags again."""
    path = f"/v1/agent/service/{instance_id}"
    current: dict[str, Any] = parts.request("GET", path)
    edited = {
        "ID": current["ID"], "Name": current["Service"], "Address": current["Address"], "Port": current["Port"],
        "Meta": current["Meta"], "Tags": ["edited"],
    }  # fmt: skip
    parts.request("PUT", "/v1/agent/service/register", json.dumps(edited).encode())
    return seconds(
        lambda: _wait_until(
            lambda: parts.request("GET", path)["Tags"] == current["Tags"], f"{instance_id} to be repaired"
        )
    )


def _wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RunError(f"Waited {PATIENCE_S:.0f} s in vain for {what}.")
        time.sleep(0.005)  # the watcher has the same core: polling more often would slow it down


def _runs() -> int:
    from registry_admin.inventory.models import ConsulContact, Lease  # noqa: PLC0415

    return Lease.objects.count() if ConsulContact.objects.filter(reachable=True).exists() else 0


def _peak_mb(pid: int) -> float:
    """Returns the peak memory of the process in MB, from /proc; NaN on systems other than Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / MB for line in lines if line.startswith("VmHWM"))


def _ms(name: str, value_s: float, *, floor: float | None = None, goal: float, rounds: int) -> Figure:
    floor_ms = None if floor is None else floor * 1000
    return Figure(name=name, value=value_s * 1000, floor=floor_ms, unit="ms", goal=goal, rounds=rounds)
