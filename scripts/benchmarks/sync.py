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
    from registry_admin.inventory.passes import Look

SIZES = {100: 5, 1000: 3, 10_000: 1}  # instances, and how many rounds of registering them
QUICK_SIZES = {100: 1, 300: 1}
PATIENCE_S = 60.0
MB = 1024


def measure(parts: Parts, *, quick: bool) -> list[Figure]:
    """All of it: some five minutes, most of them for registering 10,000 twice."""
    parts.use_postgres()
    sizes = QUICK_SIZES if quick else SIZES
    largest, smallest = max(sizes), min(sizes)
    rounds = 3 if quick else 7
    edits = 3 if quick else 20
    registering, others = [], []
    for count, times in sizes.items():
        parts.say(f"Registering {count:,} instances, {times} time(s) each way")
        registering.append(register(parts, count, times))
        if count in (smallest, largest):
            parts.say(f"Converging at {count:,}")
            others += converged(parts, count, rounds) if count == largest else []
            others += watched(parts, count, edits, is_largest=count == largest)
    return registering + others


def register(parts: Parts, count: int, rounds: int) -> Figure:
    """All of them on an agent that holds nothing: what it costs grows with what it holds."""
    from scripts.benchmarks import floors, ours  # noqa: PLC0415 - Django is set up by now

    ours.declare(count)
    parts.empty_consul()
    todo = ours.look()
    bodies = ours.bodies(todo)
    if len(bodies) != count:
        raise RunError(f"The plan registers {len(bodies)} instances and not {count}.")

    def emptied(action: Callable[[], object]) -> float:
        parts.empty_consul()
        taken = seconds(action)
        found = len(parts.ask("GET", "/v1/agent/services"))
        if found != count:
            raise RunError(f"Of {count} instances, {found} were registered.")
        return taken

    floor, own = in_turns(
        rounds,
        lambda: emptied(lambda: floors.register(parts.connect, bodies)),
        lambda: emptied(lambda: ours.apply(todo)),
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
    """Where everything is as declared: what a pass costs, and the mirror."""
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
    nothing = ours.mirror_writes(ours.make_pass)
    rows, found = floors.mirrored_rows(), ours.look()
    turn = iter(range(rounds))
    unnest, mirroring = in_turns(
        rounds,
        lambda: seconds(lambda: floors.write_mirror(rows)),
        lambda: _time_mirror(found, next(turn)),
    )
    return [
        _ms(f"a pass that finds nothing at {count:,}", own, floor=floor, goal=1.5, rounds=rounds),
        _ms(f"the mirror when all {count:,} changed", mirroring, floor=unnest, goal=1.5, rounds=rounds),
        Figure(name="writes when nothing changed", value=nothing, unit="statements", goal=0),
    ]


def _time_mirror(found: Look, turn: int) -> float:
    from scripts.benchmarks import ours  # noqa: PLC0415

    fresh = ours.altered(found, output=f"round {turn}")
    return seconds(lambda: ours.write_mirror(fresh))


def watched(parts: Parts, count: int, edits: int, *, is_largest: bool) -> list[Figure]:
    """With a real watcher: how soon an edit by hand is put right, and its memory or what an empty agent gets back."""
    pid = parts.start_watcher()
    _await(lambda: _runs() > 0 and len(parts.ask("GET", "/v1/agent/services")) == count, "the watcher's first pass")
    taken = []
    for number in range(edits):
        taken.append(_repair(parts, f"instance-{number * count // edits}"))
        time.sleep(0.3 + count / 5000)  # so that each edit comes after quiet, as a person's does
    figures = [
        _ms(f"from an edit to repaired at {count:,}", median(taken), goal=400 if count >= 10_000 else 60, rounds=edits)
    ]
    if is_largest:
        figures.append(Figure(name=f"the watcher's memory at {count:,}", value=_peak_mb(pid), unit="MB", goal=200))
    else:
        parts.empty_consul()
        back = seconds(lambda: _await(lambda: len(parts.ask("GET", "/v1/agent/services")) == count, "all to be back"))
        figures.append(Figure(name=f"all {count:,} back on an empty agent", value=back, unit="s", goal=5))
    parts.stop_watcher()
    return figures


def _repair(parts: Parts, instance_id: str) -> float:
    """Seconds from the agent's reply to an edit until it shows again what is declared."""
    path = f"/v1/agent/service/{instance_id}"
    have: dict[str, Any] = parts.ask("GET", path)
    edited = {
        "ID": have["ID"], "Name": have["Service"], "Address": have["Address"], "Port": have["Port"],
        "Meta": have["Meta"], "Tags": ["edited"],
    }  # fmt: skip
    parts.ask("PUT", "/v1/agent/service/register", json.dumps(edited).encode())
    return seconds(lambda: _await(lambda: parts.ask("GET", path)["Tags"] == have["Tags"], f"{instance_id} to be right"))


def _await(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RunError(f"Waited {PATIENCE_S:.0f} s in vain for {what}.")
        time.sleep(0.005)  # the watcher has the same core: oftener would slow down what is measured


def _runs() -> int:
    from registry_admin.inventory.models import ConsulContact, Lease  # noqa: PLC0415

    return Lease.objects.count() if ConsulContact.objects.filter(reachable=True).exists() else 0


def _peak_mb(pid: int) -> float:
    """The most memory that the process has had so far (Linux only; elsewhere nothing is known)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / MB for line in lines if line.startswith("VmHWM"))


def _ms(name: str, value_s: float, *, floor: float | None = None, goal: float, rounds: int) -> Figure:
    floor_ms = None if floor is None else floor * 1000
    return Figure(name=name, value=value_s * 1000, floor=floor_ms, unit="ms", goal=goal, rounds=rounds)
