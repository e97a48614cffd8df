"""`sync_registry --plan-out` and `--apply`: exactly the reviewed plan is applied, or none."""

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
from registry_admin.consul.marks import META_OWNER
from registry_admin.inventory.models import Instance, Service, SyncRun
from tests.parts.manage_process import CommandResult

pytestmark = pytest.mark.django_db
NO_CHECK = CheckSpec(kind=CheckKind.NONE)


@pytest.fixture
def run() -> Callable[..., CommandResult]:
    """Returns `run("--dry-run", …)`: runs the command in this process."""

    def command(*arguments: object) -> CommandResult:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        try:
            call_command("sync_registry", *map(str, arguments), stdout=out, stderr=err)
        except SystemExit as end:
            code = int(end.code or 0)
        except CommandError as error:
            code = error.returncode
            err.write(f"{error}\n")
        return CommandResult(code, out.getvalue(), err.getvalue())

    return command


@pytest.fixture
def reviewed_plan(consul, declare, run, sync, tmp_path) -> Path:
    """Plan file that registers api-…-8002; api-…-8001 is already registered as declared."""
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


def test_plan_out_prints_plan_and_writes_private_file(consul, reviewed_plan, run):
    assert ids(consul) == BEFORE
    assert stat.S_IMODE(reviewed_plan.stat().st_mode) == 0o600
    assert [path.name for path in reviewed_plan.parent.iterdir()] == ["plan.json"]
    assert [item["id"] for item in json.loads(reviewed_plan.read_text())["plan"]["items"]] == ["api-127.0.0.1-8002"]
    again = run("--plan-out", reviewed_plan)
    assert "  + api  api-127.0.0.1-8002" in again.out
    assert again.out.splitlines()[-2:] == [
        "Dry run: nothing was changed.",
        f"Kept for review; carry it out with --apply {reviewed_plan}",
    ]
    assert SyncRun.objects.filter(trigger="plan_file").count() == 0


def test_apply_carries_out_reviewed_plan_and_records_run(consul, reviewed_plan, run):
    ended = run("--apply", reviewed_plan)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-2:] == ["1 of 1 done.", "Consul matches the declarations."]
    assert ids(consul) == AFTER
    done = SyncRun.objects.get(trigger="plan_file")
    assert (done.outcome, done.registered, done.get_trigger_display()) == ("done", 1, "Reviewed plan")


def test_apply_twice_is_refused(consul, reviewed_plan, run):
    run("--apply", reviewed_plan)
    ended = run("--apply", reviewed_plan)
    assert ended.code == 1
    assert "Since the plan was made, what Consul has of api-127.0.0.1-8002 changed: nothing was done." in ended.err


def change_declaration(_consul: Any) -> None:
    Service.objects.update(tags=["new"])


def declare_another(_consul: Any) -> None:
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8003)


def edit_by_hand(consul: Any) -> None:
    instance = consul.agent_instances()["api-127.0.0.1-8001"]
    spec = ServiceSpec(name="api", address="127.0.0.1", port=9999, id=instance.id, check=NO_CHECK)
    consul.register(spec, marks={META_OWNER: instance.owner})


def remove_by_hand(consul: Any) -> None:
    consul.deregister("api-127.0.0.1-8001")


def take_instance_id(consul: Any) -> None:
    spec = ServiceSpec(name="api", address="127.0.0.1", port=8002, check=NO_CHECK)
    consul.register(spec, marks={})


@pytest.mark.parametrize(
    ("move", "side"),
    [
        (change_declaration, "the declarations of api-127.0.0.1-8001, api-127.0.0.1-8002"),
        (declare_another, "the declarations of api-127.0.0.1-8003"),
        (edit_by_hand, "what Consul has of api-127.0.0.1-8001"),
        (remove_by_hand, "what Consul has of api-127.0.0.1-8001"),
        (take_instance_id, "what Consul has of api-127.0.0.1-8002"),
    ],
)
def test_apply_stale_plan_is_refused_and_names_the_change(consul, reviewed_plan, run, move, side):
    move(consul)
    before = consul.agent_instances()
    ended = run("--apply", reviewed_plan)
    assert ended.code == 1
    assert f"Since the plan was made, {side} changed: nothing was done. Make a new plan." in ended.err
    assert consul.agent_instances() == before
    refused = SyncRun.objects.get(trigger="plan_file")
    assert (refused.outcome, refused.items) == ("failed", [])
    assert side in refused.message
    as_json = run("--apply", reviewed_plan, "--json")
    assert as_json.code == 1
    assert side in json.loads(as_json.out)["error"]


def test_apply_ignores_changes_of_health_and_foreign_instances(consul, declare, run, sync, tmp_path):
    declare("api", 8001, check_kind="ttl", check_interval="1h")
    sync()
    Instance.objects.create(service=Service.objects.get(), address="127.0.0.1", port=8002)
    run("--plan-out", tmp_path / "plan.json")
    consul.update_ttl("api-127.0.0.1-8001:ttl", "passing", output="well")
    consul.register(ServiceSpec(name="theirs", address="127.0.0.1", port=9, check=NO_CHECK), marks={})
    assert consul.agent_instances()["api-127.0.0.1-8001"].health is Health.PASSING
    assert run("--apply", tmp_path / "plan.json").code == 0
    assert ids(consul) == {*AFTER, "theirs-127.0.0.1-9"}


def test_apply_plan_of_one_service_ignores_other_services(consul, declare, run, tmp_path):
    plan = tmp_path / "plan.json"
    declare("api", 8001)
    declare("web", 8002)
    run("--plan-out", plan, "--service", "api")
    Service.objects.filter(name="web").update(tags=["moved"])
    assert run("--apply", plan).code == 0
    assert ids(consul) == {"api-127.0.0.1-8001"}


def test_plan_file_records_no_prune(consul, declare, run, sync, tmp_path):
    plan = tmp_path / "plan.json"
    declare("gone", 8001)
    sync()
    Service.objects.get().delete()
    declare("api", 8002)
    run("--plan-out", plan, "--no-prune")
    assert run("--apply", plan).code == 0
    assert ids(consul) == {"gone-127.0.0.1-8001", "api-127.0.0.1-8002"}
    run("--plan-out", plan)
    assert run("--apply", plan).code == 0
    assert ids(consul) == {"api-127.0.0.1-8002"}


def test_apply_unsafe_plan_without_force_is_refused(consul, declare, run, sync, tmp_path):
    plan = tmp_path / "plan.json"
    declare("gone", *range(8001, 8006))
    sync()
    Service.objects.all().delete()
    declare("api", 8010)
    reviewed_plan = run("--plan-out", plan)
    assert reviewed_plan.code == 3
    assert "The brake holds 5 of 5 removals" in reviewed_plan.err
    assert "--apply" in reviewed_plan.out
    refused = run("--apply", plan)
    assert refused.code == 3
    assert "--expect-removals 5" in refused.err
    assert {f"gone-127.0.0.1-{port}" for port in range(8001, 8006)} <= ids(consul)


def test_apply_plan_with_the_expected_number_of_removals_is_carried_out(consul, declare, run, sync, tmp_path):
    plan = tmp_path / "plan.json"
    declare("gone", *range(8001, 8006))
    sync()
    Service.objects.all().delete()
    assert run("--plan-out", plan, "--force").code == 0
    assert run("--apply", plan, "--expect-removals", 4).code == 3
    assert len(ids(consul)) == 5
    assert run("--apply", plan, "--expect-removals", 5).code == 0
    assert ids(consul) == set()


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", '{"format": 2}', '{"format": 1}', "[" * 100_000, "x" * 5_000_000, "\x00",
     '{"format": 1, "node": "n", "prune": true, "services": [1], "plan": {"items": []}}'],
)  # fmt: skip
def test_apply_invalid_file_is_one_short_error(consul, declare, run, tmp_path, text):
    declare("api", 8001)
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    ended = run("--apply", plan)
    assert ended.code == 1
    assert "plan file" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert len(ended.err) < 400
    assert ids(consul) == set()


def test_apply_unreadable_file_is_named(consul, run, tmp_path):
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for name, reason in (("missing.json", "No such file"), (".", "Is a directory"), ("binary", "it is not text")):
        ended = run("--apply", tmp_path / name)
        assert ended.code == 1
        assert f"{tmp_path / name} can't be read: {reason}" in ended.err


def test_plan_out_unwritable_path_is_named_and_leaves_no_file(consul, declare, run, tmp_path):
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
def test_apply_with_other_options_is_refused(run, tmp_path, other):
    ended = run("--apply", tmp_path / "plan.json", *other)
    assert ended.code == 1
    assert "goes with" in ended.err


def test_plan_out_and_apply_support_json_and_exit_codes(consul, declare, run, tmp_path):
    declare("api", 8001)
    plan = tmp_path / "plan.json"
    planned = run("--plan-out", plan, "--json", "--detailed-exitcode")
    assert planned.code == 2
    assert json.loads(planned.out)["dry_run"] is True
    applied = run("--apply", plan, "--json", "--detailed-exitcode")
    assert applied.code == 2
    assert [(result["id"], result["ok"]) for result in json.loads(applied.out)["results"]] == [
        ("api-127.0.0.1-8001", True)
    ]


@pytest.mark.django_db(transaction=True)
def test_plan_of_one_process_is_applied_by_another(consul, manage, tmp_path):
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
