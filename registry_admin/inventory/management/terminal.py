"""Output of `sync_registry`: data on stdout, errors on stderr, colours and a progress bar on a terminal only."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Plan
from registry_admin.reconcile.rendering import plan_lines, result_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

PROGRESS_BAR_FROM = 50  # changes


class Terminal:
    """Prints one command's plan, its results as they come, and errors."""

    def __init__(self, out: Any, err: Any) -> None:
        self._out, self._err = out, err
        self._bar: Progress | None = None
        self._failed: list[ItemResult] = []

    def print(self, style: str, text: str) -> None:
        """Prints a line on stdout."""
        _console(self._out).print(text, style=style or None)

    def print_error(self, text: str) -> None:
        """Prints a line on stderr."""
        _console(self._err).print(text, style="bold red")

    def print_plan(self, plan: Plan) -> None:
        """Prints the changes of the plan and its summary."""
        for style, line in plan_lines(plan):
            self.print(style, line)

    def start(self, plan: Plan) -> None:
        """Prints the plan, and starts a progress bar for a long one on a terminal."""
        self.print_plan(plan)
        if len(plan.changes) >= PROGRESS_BAR_FROM and getattr(self._err, "isatty", bool)():
            from rich.console import Console  # noqa: PLC0415
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

            columns = ("applying", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task("", total=len(plan.changes))
            self._bar.start()

    def print_result(self, result: ItemResult) -> None:
        """Prints a line for the result; with a progress bar, advances it and prints failures in `stop`."""
        if self._bar is None:
            self.print(*result_line(result))
            return
        self._bar.advance(self._bar.task_ids[0])
        if not result.ok:
            self._failed.append(result)

    def stop(self) -> None:
        """Removes the progress bar and prints the failures."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        for result in self._failed:
            self.print(*result_line(result))
        self._failed.clear()


@cache
def _console(stream: Any) -> Console:
    """Returns a console without markup that doesn't wrap lines, for grep and copying. Rich honours NO_COLOR."""
    from rich.console import Console  # noqa: PLC0415 - costs more than all the rest of a start

    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
