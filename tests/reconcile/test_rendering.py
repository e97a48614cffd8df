"""Rendering of plans and results as text: Terraform's style, safe for terminals with hostile data."""

from __future__ import annotations

import pytest

from registry_admin.consul import CheckSpec, ServiceInstance, ServiceSpec
from registry_admin.consul.marks import META_OWNER
from registry_admin.printable import escape_unprintable
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.plan import Action, Cause, Declared, PlanItem, SyncStatus
from registry_admin.reconcile.rendering import PAST, STYLES, SYMBOLS, plan_lines, result_line
from tests.reconcile.planning import OURS, claim_of, plan_of, snapshot_of

NEW = ServiceSpec(name="api", address="10.0.0.1", port=8000, tags=("v1",), meta={"team": "blue"})
HOSTILE = "\x1b[31mred\r\n\x07\u202egnp.exe\u200b[bold]"


def observed(instance_id: str, **fields) -> ServiceInstance:
    return ServiceInstance(**{"service": "api", "id": instance_id, "address": "10.0.0.1", "port": 1} | fields)


def rendered(declared, *instances, **options) -> str:
    plan = plan_of(declared, snapshot_of(*instances), **options)
    return "\n".join(text for _, text in plan_lines(plan))


def test_plan_lines_follow_the_terraform_style():
    changed = ServiceSpec(name="api", address="10.0.0.1", port=2, id="changed", check=CheckSpec(kind="none"))
    text = rendered(
        [Declared(spec=NEW), Declared(spec=changed)],
        observed("changed", meta=OURS),
        observed("gone", meta=OURS),
        observed("stranger"),
    )
    assert text == (
        "  + api  api-10.0.0.1-8000\n"
        "      # not in Consul yet [never registered]\n"
        '      address : "10.0.0.1"\n'
        "      port    : 8000\n"
        '      tags    : ["v1"]\n'
        '      meta    : {"team": "blue"}\n'
        "      weight  : 1\n"
        '      check   : "http, http:/health, every 10s, timeout 5s, out after 30s"\n'
        "  ~ api  changed\n"
        "      # differs from its declaration [declaration changed]\n"
        "      port : 1 -> 2\n"
        "  - api  gone\n"
        "      # owned but no longer declared\n"
        "  · api  stranger\n"
        "      # registered by someone else and not declared\n"
        "\n"
        "Plan: 1 to register, 1 to update, 1 to deregister, 1 left alone"
    )


def test_empty_plan_renders_its_summary_only():
    assert rendered([]) == "Plan: 0 to register, 0 to update, 0 to deregister, 0 left alone"


def test_missing_value_renders_as_none():
    declared = ServiceSpec(name="api", address="10.0.0.1", port=1, id="x", meta={"added": "1"})
    text = rendered([Declared(spec=declared)], observed("x", meta=OURS | {"taken": "2"}))
    assert 'meta.added : (none) -> "1"' in text
    assert 'meta.taken : "2" -> (none)' in text


def test_plan_lines_style_depends_on_action():
    plan = plan_of([Declared(spec=NEW)], snapshot_of(observed("gone", meta=OURS)))
    styles = {text.split()[0]: style for style, text in plan_lines(plan) if text.startswith("  ") and text[2] in "+-"}
    assert styles == {"+": "green", "-": "red"}


def test_plan_lines_escape_control_characters():
    hostile = observed(HOSTILE, service=HOSTILE, meta={META_OWNER: HOSTILE})
    edited = observed("api-10.0.0.1-8000", tags=(HOSTILE,), meta=OURS | {HOSTILE: HOSTILE})
    for line in rendered([Declared(spec=NEW)], hostile, edited).split("\n"):
        assert line.isprintable(), line
    assert r"\x1b[31mred" in rendered([], hostile)


def test_result_line_with_hostile_error_is_a_single_printable_line():
    item = PlanItem(action=Action.REGISTER, service="api", id=HOSTILE, reason="", status=SyncStatus.MISSING)
    style, line = result_line(ItemResult(item=item, error=HOSTILE))
    assert line.isprintable()
    assert line.startswith("  failed to register")
    assert "red" in style


def test_result_line_contains_action_and_duration():
    item = PlanItem(action=Action.DEREGISTER, service="api", id="api-1", reason="", status=SyncStatus.MISSING)
    assert result_line(ItemResult(item=item, seconds=0.0123))[1] == "  deregistered  api-1  (12 ms)"


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界", "[bold]", "a 'quoted' \"word\""])
def test_escape_unprintable_keeps_printable_text(text):
    assert escape_unprintable(text) == text


def test_escape_unprintable_escapes_lone_surrogate():
    assert escape_unprintable("\ud800") == r"\ud800"


def test_eviction_line_has_symbol_and_reason():
    dead = observed("dead", meta=OURS)
    declared = ServiceSpec(name="api", address="10.0.0.1", port=1, id="dead")
    text = rendered([Declared(spec=declared)], dead, evict={"dead": "critical for 31 s"})
    assert "  x api  dead\n      # critical for 31 s\n" in text
    assert "1 to evict" in text


@pytest.mark.parametrize(
    ("declared", "cause"),
    [
        (Declared(spec=NEW, claim=claim_of(NEW.id)), Cause.REMOVED),
        (Declared(spec=NEW), Cause.NEVER_REGISTERED),
    ],
)
def test_cause_renders_in_brackets(declared, cause):
    assert f" [{cause.label}]\n" in rendered([declared])


def test_cause_equal_to_reason_is_not_repeated():
    back = Declared(spec=NEW, evicted_reason="dead", recovered=True)
    assert "      # answers again\n" in rendered([back])
    text = rendered([], observed("gone", meta=OURS), observed("stranger"))
    assert "# owned but no longer declared\n" in text
    assert "[" not in text


def test_action_symbols_and_styles_are_complete():
    assert SYMBOLS.keys() == STYLES.keys() == set(Action)
    assert PAST.keys() == set(Action) - {Action.LEAVE}
    assert len(set(SYMBOLS.values())) == len(Action)
