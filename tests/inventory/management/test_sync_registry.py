"""`manage.py sync_registry`, as a deploy script and a person at a terminal use it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.consul.marks import META_OWNER, META_SELF
from registry_admin.inventory.models import Instance, InventoryIdentity, ObservedInstance, Service, SyncRun
from tests.fixtures.django import OWNER
from tests.parts import ConsulAgent, wait_until
from tests.parts.manage_process import ROOT, CommandResult

ESCAPE = "\x1b"


@pytest.fixture
def run(db) -> Callable[..., CommandResult]:
    """Returns `run("--dry-run", …)`: runs the command in this process."""

    def command(*arguments: str) -> CommandResult:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        try:
            call_command("sync_registry", *arguments, stdout=out, stderr=err)
        except SystemExit as end:
            code = int(end.code or 0)
        except CommandError as error:
            code = error.returncode
            err.write(f"{error}\n")
        return CommandResult(code, out.getvalue(), err.getvalue())

    return command


@pytest.fixture
def foreign_instance(consul) -> ServiceSpec:
    """Instance that another program has registered."""
    spec = ServiceSpec(name="theirs", address="127.0.0.1", port=9, id="theirs", check=CheckSpec(kind=CheckKind.NONE))
    consul.register(spec, marks={})
    return spec


def remove_by_declaration(declare, sync, ports: range) -> None:
    """Declares and syncs service `gone` at `ports`, then deletes its declaration."""
    declare("gone", *ports)
    sync()
    Service.objects.get(name="gone").delete()


# -- a single run ------------------------------------------------------------------------------------------------------


def test_sync_prints_plan_and_results(consul, declare, run, foreign_instance):
    declare("api", 8001)
    ended = run()
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "  + api  api-127.0.0.1-8001"
    assert "Plan: 1 to register, 0 to update, 0 to deregister, 1 left alone" in lines
    assert any(re.fullmatch(r"  registered  api-127\.0\.0\.1-8001  \(\d+ ms\)", line) for line in lines)
    assert lines[-2:] == ["1 of 1 done.", "Consul matches the declarations."]
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001", "theirs"}
    again = run()
    assert again.out.splitlines()[-1] == "Consul matches the declarations."


def test_dry_run_prints_plan_and_writes_no_row(consul, declare, run, count_queries):
    declare("api", 8001)
    InventoryIdentity.objects.get_or_create(pk=1)  # as migrations make it; an emptied test database lacks it
    writes = []
    ended = None

    def dry_run() -> None:
        nonlocal ended
        ended = run("--dry-run")

    writes = [sql for sql in count_queries(dry_run) if not sql.startswith("SELECT")]
    assert ended.code == 0
    assert "  + api  api-127.0.0.1-8001" in ended.out
    assert ended.out.splitlines()[-1] == "Dry run: nothing was changed."
    assert consul.agent_instances() == {}
    assert writes == []


def test_exit_code_is_plain_or_detailed(consul, declare, run):
    declare("api", 8001)
    assert run("--dry-run").code == 0
    assert run("--dry-run", "--detailed-exitcode").code == 2
    assert run("--detailed-exitcode").code == 2
    assert run("--detailed-exitcode").code == 0
    assert run("--dry-run", "--detailed-exitcode").code == 0


@pytest.mark.parametrize("arguments", [(), ("--dry-run",), ("--detailed-exitcode",), ("--service", "api")])
def test_declared_instance_that_is_left_alone_is_named_and_has_exit_code_3(consul, declare, run, arguments):
    declare("api", 8001)
    consul.register(Instance.objects.get().spec(), marks={})
    ended = run(*arguments)
    assert ended.code == 3
    assert "Not as declared, and left alone: api-127.0.0.1-8001: declared here, but someone else" in ended.err
    assert "Consul matches" not in ended.out


def test_json_report_has_conclusion_exit_code_and_what_is_not_as_declared(consul, declare, run):
    declare("api", 8001)
    consul.register(Instance.objects.get().spec(), marks={})
    ended = run("--json")
    report = json.loads(ended.out)
    assert (ended.code, report["conclusion"], report["exit_code"]) == (3, "held", 3)
    assert [entry["id"] for entry in report["not_as_declared"]] == ["api-127.0.0.1-8001"]
    consul.deregister("api-127.0.0.1-8001")
    report = json.loads(run("--json", "--detailed-exitcode").out)
    assert (report["conclusion"], report["exit_code"], report["not_as_declared"]) == ("verified", 2, [])


def test_instance_that_registers_itself_though_disabled_is_not_as_declared(consul, declare, run):
    service = declare("api", 8001)
    consul.register(Instance.objects.get().spec(), marks={META_SELF: "x"})
    service.enabled = False
    service.save()
    ended = run()
    assert ended.code == 3
    assert "stop the module" in ended.err


def test_invalid_declaration_is_an_error(consul, declare, run):
    declare("api", 8001)
    Instance.objects.update(port=70_000)
    for arguments in ([], ["--detailed-exitcode"], ["--dry-run"]):
        ended = run(*arguments)
        assert ended.code == 1
        assert "its declaration is invalid: api-127.0.0.1-8001: port" in ended.err


def test_json_report_is_all_of_stdout(consul, declare, run):
    declare("api", 8001)
    dry = json.loads(run("--json", "--dry-run").out)
    assert dry["dry_run"] is True
    counts = {
        "register": 1,
        "update": 0,
        "deregister": 0,
        "evict": 0,
        "left_alone": 0,
        "held": 0,
    }
    assert dry["plan"]["summary"] == counts
    assert dry["results"] == []
    ended = run("--json")
    report = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert [(result["action"], result["id"], result["ok"]) for result in report["results"]] == [
        ("register", "api-127.0.0.1-8001", True)
    ]
    assert (report["error"], report["invalid"]) == ("", {})


def test_json_report_names_invalid_declarations(consul, declare, run):
    declare("api", 8001)
    Instance.objects.update(port=70_000)
    ended = run("--json")
    assert ended.code == 1
    assert list(json.loads(ended.out)["invalid"]) == ["api-127.0.0.1-8001"]


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_json_report_contains_error(run, declare, arguments):
    ended = run("--json", *arguments)
    assert ended.code == 1
    assert "refused the connection" in json.loads(ended.out)["error"]


def test_service_option_syncs_named_services_only(consul, declare, run):
    declare("api", 8001)
    declare("web", 8002)
    declare("third", 8003)
    assert run("--service", "api", "--service", "third").code == 0
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001", "third-127.0.0.1-8003"}


def test_service_option_with_unknown_name_is_an_error(consul, declare, run):
    declare("api", 8001)
    ended = run("--service", "api", "--service", "ap\x1b[31m")
    assert ended.code == 1
    assert "No such service" in ended.err
    assert ESCAPE not in ended.err
    assert "No such service" in json.loads(run("--json", "--service", "nope").out)["error"]
    assert consul.agent_instances() == {}


def test_service_option_accepts_undeclared_service(consul, declare, run, foreign_instance):
    run()
    assert ObservedInstance.objects.count() == 1
    assert "left alone" in run("--service", "theirs").out


def test_sync_with_no_prune_leaves_undeclared_instance(consul, declare, run, sync):
    remove_by_declaration(declare, sync, range(8001, 8002))
    declare("api", 8002)
    assert "0 to deregister, 1 left alone" in run("--no-prune").out
    assert "gone-127.0.0.1-8001" in consul.agent_instances()
    assert "1 to deregister" in run("--prune").out
    assert "gone-127.0.0.1-8001" not in consul.agent_instances()


def test_unsafe_plan_without_force_is_refused_with_list(consul, declare, run, sync):
    remove_by_declaration(declare, sync, range(8001, 8006))
    declare("api", 8010)
    for arguments in (["--dry-run"], [], ["--detailed-exitcode"]):
        ended = run(*arguments)
        assert ended.code == 3
        assert "The brake holds 5 of 5 removals" in ended.err
        assert [line for line in ended.err.splitlines() if line.startswith("  - gone-127.0.0.1-")]
        assert len([name for name in consul.agent_instances() if name.startswith("gone")]) == 5
    assert run("--expect-removals", "4").code == 3
    assert len(consul.agent_instances()) == 6
    assert run("--expect-removals", "5").code == 0
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8010"}


def test_watch_takes_neither_force_nor_expected_removals(run):
    for arguments in (["--force"], ["--expect-removals", "3"]):
        ended = run("--watch", *arguments)
        assert ended.code == 1
        assert "--watch goes with --prune, --no-prune and --metrics-bind only" in ended.err


def test_json_report_of_unsafe_plan_lists_removals(consul, declare, run, sync):
    remove_by_declaration(declare, sync, range(8001, 8006))
    report = json.loads(run("--json").out)
    assert report["would_remove"] == [f"gone-127.0.0.1-{port}" for port in range(8001, 8006)]


def test_hostile_text_from_consul_is_escaped_in_output(own_agent, declare, run):
    evil = f"{ESCAPE}[31m[bold]red\u202e\a"
    body = {"ID": evil, "Name": evil, "Meta": {META_OWNER: evil}}
    own_agent.request("PUT", "/v1/agent/service/register", body=body)
    by_hand = {"ID": "api-127.0.0.1-8001", "Name": "api", "Port": 8001, "Tags": [evil], "Meta": {META_OWNER: OWNER}}
    own_agent.request("PUT", "/v1/agent/service/register", body=by_hand)
    declare("api", 8001)
    ended = run()
    assert r"\x1b[31m[bold]red" in ended.out
    assert all(line.isprintable() for line in (ended.out + ended.err).splitlines())


@pytest.mark.parametrize("other", [["--dry-run"], ["--json"], ["--detailed-exitcode"], ["--service", "api"]])
def test_watch_with_other_options_is_refused(run, other):
    ended = run("--watch", *other)
    assert ended.code == 1
    assert "--watch goes with" in ended.err


def test_run_records_user_name(consul, declare, run, monkeypatch):
    monkeypatch.setenv("LOGNAME", "deployer")
    declare("api", 8001)
    run()
    assert (SyncRun.objects.get().trigger, SyncRun.objects.get().actor) == ("command", "deployer")


# -- as a process -----------------------------------------------------------------------------------------------------


def test_process_exits_with_code_and_json_on_stdout(consul, manage):
    declared = manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    assert declared.out == "declared api with 1 instance(s)\n"
    ended = manage("sync_registry", "--json", "--detailed-exitcode")
    assert (ended.code, ended.err) == (2, "")
    assert json.loads(ended.out)["results"][0]["ok"]
    plain = manage("sync_registry")
    assert (plain.code, plain.err) == (0, "")
    assert ESCAPE not in plain.out


def test_process_with_ascii_encoding_escapes_other_characters(consul, consul_agent, manage):
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    consul_agent.request("PUT", "/v1/agent/service/register", body={"ID": "世界", "Name": "theirs"})
    ended = manage("sync_registry", PYTHONIOENCODING="ascii")
    assert (ended.code, ended.err) == (0, "")
    assert r"\xb7 theirs  \u4e16\u754c" in ended.out
    assert "1 of 1 done." in ended.out


def test_consul_unavailable_is_one_sentence_without_token(manage):
    ended = manage("sync_registry", CONSUL_HTTP_TOKEN="very-secret-token", CONSUL_HTTP_ADDR="127.0.0.1:1")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "Consul at http://127.0.0.1:1 refused the connection (is it running there?).\n"


def test_invalid_consul_address_is_named_without_password(manage):
    ended = manage("sync_registry", CONSUL_HTTP_ADDR="ftp://user:password@x")
    assert ended.code == 1
    assert "CONSUL_HTTP_ADDR" in ended.err
    assert "Traceback" not in ended.err
    assert "password" not in ended.err


@pytest.mark.parametrize("command", [["sync_registry"], ["sync_registry", "--dry-run"], ["seed_inventory", "a=b:1"]])
def test_database_not_migrated_is_one_sentence(consul, manage, tmp_path, command):
    ended = manage(*command, DATABASE_URL=f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    assert (ended.code, ended.out) == (1, "")
    assert "Run `manage.py migrate` first." in ended.err
    assert len(ended.err.splitlines()) == 1


def test_database_unavailable_is_one_sentence_without_password(consul, manage):
    ended = manage("sync_registry", DATABASE_URL="postgres://me:database-password@127.0.0.1:1/none")
    assert (ended.code, ended.out) == (1, "")
    assert "The database can't be used" in ended.err
    assert "Traceback" not in ended.err
    assert "database-password" not in ended.err


def dry_run_at_terminal(environment: dict[str, str]) -> str:
    """Runs a dry run at a pseudo-terminal and returns its output."""
    terminal, process_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "sync_registry", "--dry-run"],
        cwd=ROOT, env=environment | {"TERM": "xterm-256color"}, stdout=process_end, stderr=process_end,
    )  # fmt: skip
    os.close(process_end)
    output = b""
    try:
        while piece := os.read(terminal, 65536):
            output += piece
    except OSError:  # the process has ended, and its side of the terminal with it
        pass
    assert process.wait(30) == 0
    os.close(terminal)
    return output.decode()


def test_terminal_is_coloured_unless_no_color_is_set(consul, manage, environment):
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    colour = re.compile(rf"{ESCAPE}\[[0-9;]*3[0-7]")
    coloured = dry_run_at_terminal(environment)
    assert "api-127.0.0.1-8001" in coloured
    assert colour.search(coloured)
    plain = dry_run_at_terminal(environment | {"NO_COLOR": "1"})
    assert "api-127.0.0.1-8001" in plain
    assert not colour.search(plain)


# -- watching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watch_repairs_manual_removal_and_stops_cleanly(consul, manage, watch, number):
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    watcher = watch(REGISTRY_PASS_INTERVAL="1h")
    wait_until(consul.agent_instances, what="the declared instance in Consul")
    for _ in range(3):
        consul.deregister("api-127.0.0.1-8001")
        wait_until(consul.agent_instances, what="the instance to be put back")
    assert watcher.stop(number) == 0
    assert "INFO registered event=register instance=api-127.0.0.1-8001" in watcher.log
    assert watcher.log.rstrip().endswith("stopped")
    assert "Traceback" not in watcher.log


def test_watch_registers_again_after_agent_restart(own_agent: ConsulAgent, manage, watch):
    manage("seed_inventory", "api=127.0.0.1:8001,127.0.0.1:8002", REGISTRY_SYNC_ON_SAVE="0")
    watcher = watch(REGISTRY_PASS_INTERVAL="1s")
    wait_until(lambda: len(own_agent.request("GET", "/v1/agent/services")) == 2, what="both in Consul")
    own_agent.stop()
    wait_until(lambda: "refused the connection" in watcher.log, 20, "the watcher to notice")
    own_agent.start()
    wait_until(lambda: len(own_agent.request("GET", "/v1/agent/services")) == 2, 40, "both back in Consul")
    assert watcher.stop() == 0
    assert "all is well again" in watcher.log


def test_watch_stops_while_consul_is_unavailable(manage, watch):
    watcher = watch(CONSUL_HTTP_ADDR="127.0.0.1:1")
    wait_until(lambda: "pass failed" in watcher.log, what="the first failure")
    assert watcher.stop() == 0
