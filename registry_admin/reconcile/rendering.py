"""A plan as people read it: `+ ~ -` and field by field, in Terraform's manner. Pure: styles are names, not escapes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

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


def plan_lines(plan: Plan) -> Iterator[tuple[str, str]]:
    """(style, text) for each line: the changes, then what is left alone and why, then the summary."""
    for item in (*plan.changes, *plan.of(Action.LEAVE)):
        yield STYLES[item.action], f"  {SYMBOLS[item.action]} {visible(item.service)}  {visible(item.id)}"
        yield "dim", f"      # {visible(item.reason)}{_cause(item)}"
        if item.action is not Action.LEAVE:
            yield from (("", line) for line in _field_lines(item))
    if plan.items:
        yield "", ""
    yield "bold", plan.summary


def _cause(item: PlanItem) -> str:
    """What has happened, in brackets, where the reason doesn't say it already."""
    said = item.cause in (None, item.reason, Cause.NOT_DECLARED, Cause.EVICTED) or item.action is Action.LEAVE
    return "" if said else f" [{item.cause}]"


def _field_lines(item: PlanItem) -> Iterator[str]:
    if item.changes:
        width = max(len(change.field) for change in item.changes)
        for change in item.changes:
            yield f"      {visible(change.field):{width}} : {_value(change.before)} -> {_value(change.after)}"
    elif item.action is Action.REGISTER and item.spec is not None:
        fields = {**item.spec.fields, "check": str(item.spec.check)}
        shown = {name: value for name, value in fields.items() if name != "name" and value not in ([], {})}
        width = max(map(len, shown))
        for name, value in shown.items():
            yield f"      {name:{width}} : {_value(value)}"


def result_line(result: ItemResult) -> tuple[str, str]:
    """(style, text) for what became of one item."""
    item = result.item
    if result.ok:
        return STYLES[item.action], f"  {PAST[item.action]}  {visible(item.id)}  ({result.seconds * 1000:.0f} ms)"
    return "bold red", f"  failed to {item.action}  {visible(item.id)}: {visible(result.error)}"


def visible(text: str) -> str:
    """Text from outside with everything that a terminal might obey written out as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _value(value: Any) -> str:
    if value is None:
        return "(none)"
    return visible(json.dumps(value, ensure_ascii=False))
