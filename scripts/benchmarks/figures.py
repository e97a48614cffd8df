"""Figures of a measurement: the value, the floor beside it, and whether the goal is met."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value and its floor, in `unit`. The goal limits their ratio if there is a floor, else the value."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    goal: float | None = None
    at_least: bool = False  # the goal is a least value, not a greatest
    rounds: int = 1

    @property
    def ratio(self) -> float | None:
        """Value divided by the floor."""
        return self.value / self.floor if self.floor else None

    @property
    def result(self) -> str:
        """`met`, `missed`, or "" if there is no goal."""
        if self.goal is None:
            return ""
        reached = self.value if self.ratio is None else self.ratio
        return "met" if (reached >= self.goal if self.at_least else reached <= self.goal) else "missed"

    def as_dict(self) -> dict[str, Any]:
        """Returns the figure for JSON."""
        return {**asdict(self), "ratio": self.ratio, "result": self.result}

    @property
    def cells(self) -> tuple[str, ...]:
        """Cells of the figure's row in the table."""
        sign = "≥" if self.at_least else "≤"
        unit = "x" if self.floor is not None else self.unit
        return (
            self.name,
            f"{_number(self.value)} {self.unit}",
            f"{_number(self.floor)} {self.unit}" if self.floor is not None else "",
            f"{self.ratio:.2f}" if self.ratio is not None else "",
            f"{sign} {self.goal:g} {unit}" if self.goal is not None else "",
            self.result,
        )


def table(figures: Sequence[Figure]) -> str:
    """Returns the figures as text, a line each."""
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
    """Returns the duration of the action in seconds."""
    started_at = time.perf_counter()
    action()
    return time.perf_counter() - started_at


def in_turns(rounds: int, *actions: Callable[[], float]) -> list[float]:
    """Returns the median of each action's results. They take turns, so that a slow minute affects all of them."""
    results = [[action() for action in actions] for _ in range(rounds)]
    return [median(column) for column in zip(*results, strict=True)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
