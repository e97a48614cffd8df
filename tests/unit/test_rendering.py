"""A plan as people read it: in Terraform's manner, and harmless to the terminal whatever Consul holds."""

from __future__ import annotations

import pytest

from registry_admin.consul import CheckSpec, ServiceInstance, ServiceSpec
from registry_admin.consul.types import META_OWNER
from registry_admin.reconcile.apply import ItemResult
from registry_admin.reconcile.compare import make_plan
from registry_admin.reconcile.plan import Action, Cause, Declared, PlanItem, SyncStatus
from registry_admin.reconcile.rendering import PAST, STYLES, SYMBOLS, plan_lines, result_line, visible
from tests.unit.planning import look

NEW = ServiceSpec(name="api", address="10.0.0.1", port=8000, tags=("v1",), meta={"team": "blue"})
HOSTILE = "\x1b[31mred\r\n\x07\u202egnp.exe\u200b[bold]"


def observed(instance_id: str, **fields) -> ServiceInstance:
    return ServiceInstance(**{"service": "api", "id": instance_id, "address": "10.0.0.1", "port": 1} | fields)


def rendered(declared, *instances, **options) -> str:
    plan = make_plan(declared, look(*instances), owner="us", **options)
    return "\n".join(text for _, text in plan_lines(plan))


def test_a_plan_reads_as_in_terraform():
    changed = ServiceSpec(name="api", address="10.0.0.1", port=2, id="changed", check=CheckSpec(kind="none"))
    text = rendered(
        [Declared(spec=NEW), Declared(spec=changed)],
        observed("changed", meta={META_OWNER: "us"}),
        observed("gone", meta={META_OWNER: "us"}),
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


def test_a_plan_with_nothing_in_it_is_its_summary_alone():
    assert rendered([]) == "Plan: 0 to register, 0 to update, 0 to deregister, 0 left alone"


def test_what_was_not_there_before_is_shown_as_none():
    wanted = ServiceSpec(name="api", address="10.0.0.1", port=1, id="x", meta={"added": "1"})
    text = rendered([Declared(spec=wanted)], observed("x", meta={META_OWNER: "us", "taken": "2"}))
    assert 'meta.added : (none) -> "1"' in text
    assert 'meta.taken : "2" -> (none)' in text


def test_each_action_has_a_style_of_its_own():
    plan = make_plan([Declared(spec=NEW)], look(observed("gone", meta={META_OWNER: "us"})), owner="us")
    styles = {text.split()[0]: style for style, text in plan_lines(plan) if text.startswith("  ") and text[2] in "+-"}
    assert styles == {"+": "green", "-": "red"}


def test_nothing_that_a_terminal_obeys_comes_through():
    hostile = observed(HOSTILE, service=HOSTILE, meta={META_OWNER: HOSTILE})
    edited = observed("api-10.0.0.1-8000", tags=(HOSTILE,), meta={META_OWNER: "us", HOSTILE: HOSTILE})
    for line in rendered([Declared(spec=NEW)], hostile, edited).split("\n"):
        assert line.isprintable(), line
    assert r"\x1b[31mred" in rendered([], hostile)


def test_an_error_from_outside_is_one_harmless_line():
    item = PlanItem(action=Action.REGISTER, service="api", id=HOSTILE, reason="", status=SyncStatus.MISSING)
    style, line = result_line(ItemResult(item=item, error=HOSTILE))
    assert line.isprintable()
    assert line.startswith("  failed to register")
    assert "red" in style


def test_a_result_says_what_was_done_and_how_long_it_took():
    item = PlanItem(action=Action.DEREGISTER, service="api", id="api-1", reason="", status=SyncStatus.MISSING)
    assert result_line(ItemResult(item=item, seconds=0.0123))[1] == "  deregistered  api-1  (12 ms)"


@pytest.mark.parametrize("text", ["plain", "Grüße, 世界", "[bold]", "a 'quoted' \"word\""])
def test_what_is_visible_stays_as_it_is(text):
    assert visible(text) == text


def test_a_lone_surrogate_can_be_shown():
    assert visible("\ud800") == r"\ud800"


def test_an_eviction_has_a_symbol_and_a_reason():
    dead = observed("dead", meta={META_OWNER: "us"})
    wanted = ServiceSpec(name="api", address="10.0.0.1", port=1, id="dead")
    text = rendered([Declared(spec=wanted)], dead, evict={"dead": "critical for 31 s"})
    assert "  x api  dead\n      # critical for 31 s\n" in text
    assert "1 to evict" in text


@pytest.mark.parametrize(
    ("declared", "cause"),
    [
        (Declared(spec=NEW, claimed=True), Cause.REMOVED),
        (Declared(spec=NEW), Cause.NEVER_REGISTERED),
    ],
)
def test_what_has_happened_stands_in_brackets(declared, cause):
    assert f" [{cause}]\n" in rendered([declared])


def test_what_the_reason_says_already_is_not_said_twice():
    back = Declared(spec=NEW, evicted="dead", answers=True)
    assert "      # answers again\n" in rendered([back])
    assert "[" not in rendered([], observed("gone", meta={META_OWNER: "us"}), observed("stranger"))


def test_every_action_can_be_shown():
    assert SYMBOLS.keys() == STYLES.keys() == set(Action)
    assert PAST.keys() == set(Action) - {Action.LEAVE}
    assert len(set(SYMBOLS.values())) == len(Action)
