"""A plan as people read it: `+ ~ -` and field by field, in Terraform's manner. Pure: styles are names, not escapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from registry_admin.printable import escape_unprintable
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Action, Cause, Plan, PlanItem

SYMBOLS = {Action.REGISTER: "+", Action.UPDATE: "~", Action.DEREGISTER: "-", Action.EVICT: "x", Action.LEAVE: "·"}
STYLES = {
    Action.REGISTER: "green", Action.UPDATE: "yellow", Action.DEREGISTER: "red", Action.EVICT: "magenta",
    Action.LEAVE: "dim",
}  # fmt: skip
PAST = {
    Action.REGISTER: "registered", Action.UPDATE: "updated", Action.DEREGISTER: "deregistered", Action.EVICT: "evicted",
}  # fmt: skip
_CAUSES_IN_REASON = (Cause.NOT_DECLARED, Cause.EVICTED, Cause.DISABLED, Cause.RECOVERED)


def plan_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    """(style, text) for each line: the changes, then what is left alone and why, then the summary."""
    for item in (*plan.changes, *plan.with_actions(Action.LEAVE)):
        yield (
            STYLES[item.action],
            f"  {SYMBOLS[item.action]} {escape_unprintable(item.service)}  {escape_unprintable(item.id)}",
        )
        yield "dim", f"      # {escape_unprintable(item.reason)}{_cause(item)}"
        if item.action is not Action.LEAVE:
            yield from (("", line) for line in _field_lines(item))
    if plan.items:
        yield "", ""
    yield "bold", plan.summary


def _cause(item: PlanItem) -> str:
    """Returns the cause in brackets, unless the reason says it already."""
    if item.cause is None or item.cause in _CAUSES_IN_REASON or item.action is Action.LEAVE:
        return ""
    return f" [{item.cause.label}]"


def _field_lines(item: PlanItem) -> Iterator[str]:
    if item.changes:
        width = max(len(change.field) for change in item.changes)
        for change in item.changes:
            name = escape_unprintable(change.field)
            yield f"      {name:{width}} : {_value(change.before)} -> {_value(change.after)}"
    elif item.action is Action.REGISTER and item.spec is not None:
        fields = {**item.spec.fields, "check": str(item.spec.check)}
        registered_fields = {name: value for name, value in fields.items() if name != "name" and value not in ([], {})}
        width = max(map(len, registered_fields))
        for name, value in registered_fields.items():
            yield f"      {name:{width}} : {_value(value)}"


def result_line(result: ItemResult) -> tuple[str, str]:
    """Returns style and text for the result of one item."""
    item = result.item
    if result.ok:
        return STYLES[
            item.action
        ], f"  {PAST[item.action]}  {escape_unprintable(item.id)}  ({result.seconds * 1000:.0f} ms)"
    return "bold red", f"  failed to {item.action}  {escape_unprintable(item.id)}: {escape_unprintable(result.error)}"


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    return escape_unprintable(json.dumps(value, ensure_ascii=False))
