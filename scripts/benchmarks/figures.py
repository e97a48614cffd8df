"""Figures as people read them: ours, the floor beside it, and whether the goal is met."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`value` and `floor` are in `unit`. The goal is a limit: for the ratio of the two where there is a floor."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    goal: float | None = None
    at_least: bool = False  # the goal is a least value, not a greatest
    rounds: int = 1

    @property
    def ratio(self) -> float | None:
        """Ours by the floor's."""
        return self.value / self.floor if self.floor else None

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where there is no goal."""
        if self.goal is None:
            return ""
        reached = self.value if self.ratio is None else self.ratio
        return "met" if (reached >= self.goal if self.at_least else reached <= self.goal) else "missed"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio, "verdict": self.verdict}

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        sign = "≥" if self.at_least else "≤"
        unit = "x" if self.floor is not None else self.unit
        return (
            self.name,
            f"{_number(self.value)} {self.unit}",
            f"{_number(self.floor)} {self.unit}" if self.floor is not None else "",
            f"{self.ratio:.2f}" if self.ratio is not None else "",
            f"{sign} {self.goal:g} {unit}" if self.goal is not None else "",
            self.verdict,
        )


def table(figures: Sequence[Figure]) -> str:
    """All of them, a line each."""
    rows = [("", "ours", "floor", "ratio", "goal", ""), *(figure.cells for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(
            cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def in_turns(rounds: int, *actions: Callable[[], float]) -> list[float]:
    """The medians of what each action returns; they take turns, so that a slow minute hits them alike."""
    taken = [[action() for action in actions] for _ in range(rounds)]
    return [median(column) for column in zip(*taken, strict=True)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
