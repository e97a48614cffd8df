"""Reports of calls between services: parsed, checked, and summed per five minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from django.db import connection
from django.utils import timezone

from registry_admin.callgraph.models import CallCount
from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError

MAX_CALLED_SERVICES = 500
MAX_PAIRS = 10_000  # of all modules, within five minutes
_MOST_CALLS = 10**9
_MOST_MS = 1e12
_COUNTS = ("calls", "failures")
_TIMES = ("milliseconds", "slowest_ms")


@dataclass(frozen=True, kw_only=True)
class CallSummary:
    """The calls of one service, as its caller counted them; times are in milliseconds."""

    called: str
    calls: int
    failures: int
    milliseconds: float
    slowest_ms: float


@dataclass(frozen=True, kw_only=True)
class CallsReport:
    """Calls of one process of `caller` since its last report."""

    caller: str
    calls: tuple[CallSummary, ...]

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Reads decoded JSON; raises InvalidValueError that names the field."""
        if not isinstance(raw, dict) or raw.keys() != {"caller", "calls"}:
            raise InvalidValueError("report", raw, "give an object with just 'caller' and 'calls'")
        if not isinstance(raw["calls"], list) or len(raw["calls"]) > MAX_CALLED_SERVICES:
            raise InvalidValueError("calls", None, f"give a list of at most {MAX_CALLED_SERVICES}")
        calls = tuple(_counted(counted, f"calls[{number}]") for number, counted in enumerate(raw["calls"]))
        if len({counted.called.lower() for counted in calls}) != len(calls):
            raise InvalidValueError("calls", None, "name each called service once")
        return cls(caller=validation.service_name(raw["caller"], "caller"), calls=calls)


def _counted(raw: Any, where: str) -> CallSummary:
    if not isinstance(raw, dict) or raw.keys() != {"called", *_COUNTS, *_TIMES}:
        raise InvalidValueError(where, None, f"give an object with just called, {', '.join((*_COUNTS, *_TIMES))}")
    for name in _COUNTS:
        if isinstance(raw[name], bool) or not isinstance(raw[name], int) or not 0 <= raw[name] <= _MOST_CALLS:
            raise InvalidValueError(f"{where}.{name}", raw[name], "give a whole number, not negative")
    for name in _TIMES:
        value = raw[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_MS:
            raise InvalidValueError(f"{where}.{name}", value, "give milliseconds, not negative")
    if raw["failures"] > raw["calls"]:
        raise InvalidValueError(f"{where}.failures", raw["failures"], "no more can have failed than were made")
    called = validation.service_name(raw["called"], f"{where}.called")
    return CallSummary(called=called, **{name: raw[name] for name in (*_COUNTS, *_TIMES)})


def is_full(module: str, *, now: datetime | None = None) -> bool:
    """Returns whether these five minutes have as many pairs as `module` may report; all modules where it is empty."""
    rows, most = CallCount.objects.filter(at=_period(now)), MAX_PAIRS
    if module:
        rows, most = rows.filter(caller=module), MAX_CALLED_SERVICES
    return rows.count() >= most


def _period(now: datetime | None) -> datetime:
    now = now or timezone.now()
    return now.replace(minute=now.minute // 5 * 5, second=0, microsecond=0)


def add_calls(report: CallsReport, *, now: datetime | None = None) -> None:
    """Adds the report to the counts in one statement, so that simultaneous reports lose nothing."""
    at = _period(now)
    rows = [
        (
            connection.ops.adapt_datetimefield_value(at),
            report.caller,
            counted.called,
            counted.calls,
            counted.failures,
            float(counted.milliseconds),
            float(counted.slowest_ms),
        )
        for counted in sorted(
            report.calls, key=lambda counted: counted.called
        )  # in one order, so that none waits for another
    ]
    if rows:
        _upsert(rows)


def _upsert(rows: Sequence[Sequence[Any]]) -> None:
    table = connection.ops.quote_name(CallCount._meta.db_table)
    greatest = "GREATEST" if connection.vendor == "postgresql" else "MAX"
    values = ", ".join(["(%s, %s, %s, %s, %s, %s, %s)"] * len(rows))
    statement = (  # made of the names of our own model
        f"INSERT INTO {table} (at, caller, called, calls, failures, milliseconds, slowest_ms) "  # noqa: S608
        f"VALUES {values} "
        f"ON CONFLICT (at, caller, called) DO UPDATE SET calls = {table}.calls + excluded.calls, "
        f"failures = {table}.failures + excluded.failures, "
        f"milliseconds = {table}.milliseconds + excluded.milliseconds, "
        f"slowest_ms = {greatest}({table}.slowest_ms, excluded.slowest_ms)"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [value for row in rows for value in row])
