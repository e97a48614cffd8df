"""`sync_registry --plan-out` and `--apply`: what was reviewed is what runs, or nothing does."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from registry_admin.consul import CheckKind, CheckSpec, Health, ServiceSpec
from registry_admin.consul.types import META_OWNER
from registry_admin.inventory.models import Instance, Service, SyncRun
from tests.inventory.processes import Ended

pytestmark = pytest.mark.django_db
NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture
def run() -> Callable[..., Ended]:
    """`run("--dry-run")`: the command in this process."""

    def command(*arguments: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        try:
            call_command("sync_registry", *map(str, arguments), stdout=out, stderr=err)
        except SystemExit as end:
            code = int(end.code or 0)
        except CommandError as error:
            code = error.returncode
            err.write(f"{error}\n")
        return Ended(code, out.getvalue(), err.getvalue())

    return command


@pytest.fixture
def kept(consul, declare, run, sync, tmp_path) -> Path:
    """A reviewed plan: api-…-8002 is to be registered, api-…-8001 is there as declared."""
    declare("api", 8001)
    sync()
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8002)
    plan = tmp_path / "plan.json"
    ended = run("--plan-out", plan)
    assert (ended.code, ended.err) == (0, "")
    return plan


def ids(consul: Any) -> set[str]:
    return set(consul.agent_instances())


BEFORE, AFTER = {"api-127.0.0.1-8001"}, {"api-127.0.0.1-8001", "api-127.0.0.1-8002"}


def test_a_plan_is_printed_and_kept_for_its_owner_s_eyes_and_nothing_is_changed(consul, kept, run):
    assert ids(consul) == BEFORE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [path.name for path in kept.parent.iterdir()] == ["plan.json"]
    assert [item["id"] for item in json.loads(kept.read_text())["plan"]["items"]] == ["api-127.0.0.1-8002"]
    again = run("--plan-out", kept)
    assert "  + api  api-127.0.0.1-8002" in again.out
    assert again.out.splitlines()[-2:] == [
        "Dry run: nothing was changed.",
        f"Kept for review; carry it out with --apply {kept}",
    ]
    assert SyncRun.objects.filter(trigger="plan_file").count() == 0


def test_what_was_reviewed_is_what_is_done_and_the_history_says_so(consul, kept, run):
    ended = run("--apply", kept)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "1 of 1 done."
    assert ids(consul) == AFTER
    done = SyncRun.objects.get(trigger="plan_file")
    assert (done.outcome, done.registered, done.get_trigger_display()) == ("done", 1, "Reviewed plan")


def test_a_plan_is_carried_out_once(consul, kept, run):
    run("--apply", kept)
    ended = run("--apply", kept)
    assert ended.code == 1
    assert "Since the plan was made, what Consul has of api-127.0.0.1-8002 changed: nothing was done." in ended.err


def change_declaration(_consul: Any) -> None:
    Service.objects.update(tags=["new"])


def declare_another(_consul: Any) -> None:
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8003)


def edit_by_hand(consul: Any) -> None:
    have = consul.agent_instances()["api-127.0.0.1-8001"]
    spec = ServiceSpec(name="api", address="127.0.0.1", port=9999, id=have.id, check=NO_CHECK)
    consul.register(spec, marks={META_OWNER: have.owner})


def remove_by_hand(consul: Any) -> None:
    consul.deregister("api-127.0.0.1-8001")


def somebody_takes_the_id(consul: Any) -> None:
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8002, check=NO_CHECK)
    consul.register(spec, marks={})


@pytest.mark.parametrize(
    ("move", "side"),
    [
        (change_declaration, "the declarations of api-127.0.0.1-8001, api-127.0.0.1-8002"),
        (declare_another, "the declarations of api-127.0.0.1-8003"),
        (edit_by_hand, "what Consul has of api-127.0.0.1-8001"),
        (remove_by_hand, "what Consul has of api-127.0.0.1-8001"),
        (somebody_takes_the_id, "what Consul has of api-127.0.0.1-8002"),
    ],
)
def test_where_a_side_has_moved_nothing_is_done_and_the_refusal_names_it(consul, kept, run, move, side):
    move(consul)
    before = consul.agent_instances()
    ended = run("--apply", kept)
    assert ended.code == 1
    assert f"Since the plan was made, {side} changed: nothing was done. Make a new plan." in ended.err
    assert consul.agent_instances() == before
    refused = SyncRun.objects.get(trigger="plan_file")
    assert (refused.outcome, refused.items) == ("failed", [])
    assert side in refused.message
    as_json = run("--apply", kept, "--json")
    assert as_json.code == 1
    assert side in json.loads(as_json.out)["error"]


def test_strangers_and_health_are_no_movement(consul, declare, run, sync, tmp_path):
    declare("api", 8001, check_kind="ttl", check_interval="1h")
    sync()
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8002)
    run("--plan-out", tmp_path / "plan.json")
    consul.update_ttl("api-127.0.0.1-8001:ttl", "passing", output="well")
    consul.register(ServiceSpec(name="theirs", address="127.0.0.1", port=9, check=NO_CHECK), marks={})
    assert consul.agent_instances()["api-127.0.0.1-8001"].health is Health.PASSING
    assert run("--apply", tmp_path / "plan.json").code == 0
    assert ids(consul) == {*AFTER, "theirs-127.0.0.1-9"}


def test_a_plan_for_a_service_does_and_minds_that_one_only(consul, declare, run, tmp_path):
    plan = tmp_path / "plan.json"
    declare("api", 8001)
    declare("web", 8002)
    run("--plan-out", plan, "--service", "api")
    Service.objects.filter(name="web").update(tags=["moved"])
    assert run("--apply", plan).code == 0
    assert ids(consul) == {"api-127.0.0.1-8001"}


def test_not_to_prune_is_kept_in_the_file(consul, declare, run, sync, tmp_path):
    plan = tmp_path / "plan.json"
    declare("gone", 8001)
    sync()
    Service.objects.all().delete()
    declare("api", 8002)
    run("--plan-out", plan, "--no-prune")
    assert run("--apply", plan).code == 0
    assert ids(consul) == {"gone-127.0.0.1-8001", "api-127.0.0.1-8002"}
    run("--plan-out", plan)
    assert run("--apply", plan).code == 0
    assert ids(consul) == {"api-127.0.0.1-8002"}


def test_an_unsafe_plan_is_kept_for_review_and_done_only_with_force(consul, declare, run, sync, tmp_path):
    plan = tmp_path / "plan.json"
    declare("gone", *range(8001, 8006))
    sync()
    Service.objects.all().delete()
    declare("api", 8010)
    kept = run("--plan-out", plan)
    assert kept.code == 1
    assert "would remove 5 of 5" in kept.err
    assert "--apply" in kept.out
    refused = run("--apply", plan)
    assert refused.code == 1
    assert "use --force" in refused.err
    assert {f"gone-127.0.0.1-{port}" for port in range(8001, 8006)} <= ids(consul)


def test_with_force_a_reviewed_unsafe_plan_is_carried_out(consul, declare, run, sync, tmp_path):
    plan = tmp_path / "plan.json"
    declare("gone", *range(8001, 8006))
    sync()
    Service.objects.all().delete()
    assert run("--plan-out", plan, "--force").code == 0
    assert run("--apply", plan, "--force").code == 0
    assert ids(consul) == set()


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", '{"format": 2}', '{"format": 1}', "[" * 100_000, "x" * 5_000_000, "\x00",
     '{"format": 1, "node": "n", "prune": true, "services": [1], "plan": {"items": []}}'],
)  # fmt: skip
def test_a_file_that_is_no_plan_is_one_short_sentence(consul, declare, run, tmp_path, text):
    declare("api", 8001)
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    ended = run("--apply", plan)
    assert ended.code == 1
    assert "plan file" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert len(ended.err) < 400
    assert ids(consul) == set()


def test_a_file_that_can_not_be_read_is_named(consul, run, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for name, why in (("missing.json", "No such file"), (".", "Is a directory"), ("binary", "it is not text")):
        ended = run("--apply", tmp_path / name)
        assert ended.code == 1
        assert f"{tmp_path / name} can't be read: {why}" in ended.err


def test_a_folder_that_can_not_be_written_is_named_and_leaves_nothing_behind(consul, declare, run, tmp_path):
    declare("api", 8001)
    (tmp_path / "folder").mkdir()
    for name in ("no/such/plan.json", "folder"):
        ended = run("--plan-out", tmp_path / name)
        assert ended.code == 1
        assert f"--plan-out: {tmp_path / name} can't be written: " in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    "other", [["--dry-run"], ["--plan-out", "x"], ["--service", "api"], ["--no-prune"], ["--watch"]]
)
def test_what_does_not_go_with_apply_is_refused(run, tmp_path, other):
    ended = run("--apply", tmp_path / "plan.json", *other)
    assert ended.code == 1
    assert "goes with" in ended.err


def test_exit_codes_and_json_are_as_for_any_other_pass(consul, declare, run, tmp_path):
    declare("api", 8001)
    plan = tmp_path / "plan.json"
    planned = run("--plan-out", plan, "--json", "--detailed-exitcode")
    assert planned.code == 2
    assert json.loads(planned.out)["dry_run"] is True
    applied = run("--apply", plan, "--json", "--detailed-exitcode")
    assert applied.code == 2
    assert [(one["id"], one["ok"]) for one in json.loads(applied.out)["results"]] == [("api-127.0.0.1-8001", True)]


@pytest.mark.django_db(transaction=True)
def test_as_processes_what_one_has_planned_another_carries_out(consul, manage, tmp_path):
    plan = tmp_path / "plan.json"
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    planned = manage("sync_registry", "--plan-out", str(plan))
    assert (planned.code, planned.err) == (0, "")
    assert ids(consul) == set()
    refused = manage("sync_registry", "--apply", str(tmp_path / "missing"))
    assert (refused.code, refused.out) == (1, "")
    applied = manage("sync_registry", "--apply", str(plan))
    assert (applied.code, applied.err) == (0, "")
    assert ids(consul) == {"api-127.0.0.1-8001"}
    moved = manage("sync_registry", "--apply", str(plan), "--json")
    assert moved.code == 1
    assert "changed: nothing was done" in json.loads(moved.out)["error"]
