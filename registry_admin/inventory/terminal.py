"""What `sync_registry` shows: data on stdout, complaints on stderr; colours and a bar on a terminal only."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Plan
from registry_admin.reconcile.rendering import plan_lines, result_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

MANY = 50  # changes, from which on a bar is easier to read than a line for each


class Terminal:
    """One command's output. A plan, its results as they come, and an ending."""

    def __init__(self, out: Any, err: Any) -> None:
        self._out, self._err = out, err
        self._bar: Progress | None = None
        self._failed: list[ItemResult] = []

    def say(self, style: str, text: str) -> None:
        """A line of data."""
        _console(self._out).print(text, style=style or None)

    def complain(self, text: str) -> None:
        """A line about what went wrong."""
        _console(self._err).print(text, style="bold red")

    def plan(self, plan: Plan) -> None:
        """What is going to be done."""
        for style, line in plan_lines(plan):
            self.say(style, line)

    def begin(self, plan: Plan) -> None:
        """The plan; where it is long, and somebody is watching, a bar for its results."""
        self.plan(plan)
        if len(plan.changes) >= MANY and getattr(self._err, "isatty", bool)():
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

            columns = ("applying", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=len(plan.changes))
            self._bar.start()

    def result(self, result: ItemResult) -> None:
        """What became of one item: a line, or with a bar its progress and later a line if it failed."""
        if self._bar is None:
            self.say(*result_line(result))
            return
        self._bar.advance(self._bar.task_ids[0])
        if not result.ok:
            self._failed.append(result)

    def end(self) -> None:
        """There are no more results."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        for result in self._failed:
            self.say(*result_line(result))
        self._failed.clear()


@cache
def _console(stream: Any) -> Console:
    """Colours on a terminal only, and none with NO_COLOR; long lines stay whole, for grep and copying."""
    from rich.console import Console  # noqa: PLC0415 - costs more than all the rest of a start

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
