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
from registry_admin.consul.types import META_OWNER
from registry_admin.inventory.models import Instance, ObservedInstance, Service, SyncRun
from tests.inventory.conftest import OWNER
from tests.inventory.processes import ROOT, Ended
from tests.parts import ConsulAgent, wait_until

ESCAPE = "\x1b"


@pytest.fixture
def run(db) -> Callable[..., Ended]:
    """`run("--dry-run")`: the command in this process."""

    def command(*arguments: str) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        try:
            call_command("sync_registry", *arguments, stdout=out, stderr=err)
        except SystemExit as end:
            code = int(end.code or 0)
        except CommandError as error:
            code = error.returncode
            err.write(f"{error}\n")
        return Ended(code, out.getvalue(), err.getvalue())

    return command


@pytest.fixture
def stranger(consul) -> ServiceSpec:
    """Registered by someone else."""
    one = ServiceSpec(name="theirs", address="127.0.0.1", port=9, id="theirs", check=CheckSpec(kind=CheckKind.NONE))
    consul.register(one, marks={})
    return one


def remove_by_declaration(declare, sync, ports: range) -> None:
    """Everything was synced, and then its declaration deleted."""
    declare("gone", *ports)
    sync()
    Service.objects.get(name="gone").delete()


# -- one pass ---------------------------------------------------------------------------------------------------------


def test_a_pass_prints_the_plan_does_it_and_says_what_became_of_it(consul, declare, run, stranger):
    declare("api", 8001)
    ended = run()
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "  + api  api-127.0.0.1-8001"
    assert "Plan: 1 to register, 0 to update, 0 to deregister, 1 left alone" in lines
    assert any(re.fullmatch(r"  registered  api-127\.0\.0\.1-8001  \(\d+ ms\)", line) for line in lines)
    assert lines[-1] == "1 of 1 done."
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001", "theirs"}
    again = run()
    assert again.out.splitlines()[-1] == "Consul matches the declarations."


def test_a_dry_run_prints_the_same_plan_and_changes_nothing(consul, declare, run, count_queries):
    declare("api", 8001)
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


def test_exit_codes_are_plain_or_detailed(consul, declare, run):
    declare("api", 8001)
    assert run("--dry-run").code == 0
    assert run("--dry-run", "--detailed-exitcode").code == 2
    assert run("--detailed-exitcode").code == 2
    assert run("--detailed-exitcode").code == 0
    assert run("--dry-run", "--detailed-exitcode").code == 0


def test_a_broken_declaration_is_an_error_in_either_manner(consul, declare, run):
    declare("api", 8001)
    Instance.objects.update(port=0)
    for arguments in ([], ["--detailed-exitcode"], ["--dry-run"]):
        ended = run(*arguments)
        assert ended.code == 1
        assert "its declaration is invalid: api-127.0.0.1-8001: port" in ended.err


def test_json_is_the_only_thing_on_stdout(consul, declare, run):
    declare("api", 8001)
    dry = json.loads(run("--json", "--dry-run").out)
    assert dry["dry_run"] is True
    assert dry["plan"]["summary"] == {"register": 1, "update": 0, "deregister": 0, "evict": 0, "left_alone": 0}
    assert dry["results"] == []
    ended = run("--json")
    report = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert [(one["action"], one["id"], one["ok"]) for one in report["results"]] == [
        ("register", "api-127.0.0.1-8001", True)
    ]
    assert (report["error"], report["invalid"]) == ("", {})


def test_json_names_what_is_invalid(consul, declare, run):
    declare("api", 8001)
    Instance.objects.update(port=0)
    ended = run("--json")
    assert ended.code == 1
    assert list(json.loads(ended.out)["invalid"]) == ["api-127.0.0.1-8001"]


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_json_tells_of_an_error_too(run, declare, arguments):
    ended = run("--json", *arguments)
    assert ended.code == 1
    assert "refused the connection" in json.loads(ended.out)["error"]


def test_a_service_alone_is_synced(consul, declare, run):
    declare("api", 8001)
    declare("web", 8002)
    declare("third", 8003)
    assert run("--service", "api", "--service", "third").code == 0
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8001", "third-127.0.0.1-8003"}


def test_a_service_that_nobody_knows_is_an_error(consul, declare, run):
    declare("api", 8001)
    ended = run("--service", "api", "--service", "ap\x1b[31m")
    assert ended.code == 1
    assert "No such service" in ended.err
    assert ESCAPE not in ended.err
    assert "No such service" in json.loads(run("--json", "--service", "nope").out)["error"]
    assert consul.agent_instances() == {}


def test_a_service_that_is_only_in_consul_may_be_named(consul, declare, run, stranger):
    run()
    assert ObservedInstance.objects.count() == 1
    assert "left alone" in run("--service", "theirs").out


def test_without_prune_what_is_not_declared_any_more_stays(consul, declare, run, sync):
    remove_by_declaration(declare, sync, range(8001, 8002))
    declare("api", 8002)
    assert "0 to deregister, 1 left alone" in run("--no-prune").out
    assert "gone-127.0.0.1-8001" in consul.agent_instances()
    assert "1 to deregister" in run("--prune").out
    assert "gone-127.0.0.1-8001" not in consul.agent_instances()


def test_an_unsafe_plan_is_refused_with_the_list_unless_forced(consul, declare, run, sync):
    remove_by_declaration(declare, sync, range(8001, 8006))
    declare("api", 8010)
    for arguments in (["--dry-run"], [], ["--detailed-exitcode"]):
        ended = run(*arguments)
        assert ended.code == 1
        assert "would remove 5 of " in ended.err
        assert [line for line in ended.err.splitlines() if line.startswith("  - gone-127.0.0.1-")]
        assert len([name for name in consul.agent_instances() if name.startswith("gone")]) == 5
    assert run("--force").code == 0
    assert consul.agent_instances().keys() == {"api-127.0.0.1-8010"}


def test_an_unsafe_plan_as_json_says_what_it_would_have_removed(consul, declare, run, sync):
    remove_by_declaration(declare, sync, range(8001, 8006))
    report = json.loads(run("--json").out)
    assert report["would_remove"] == [f"gone-127.0.0.1-{port}" for port in range(8001, 8006)]


def test_hostile_text_in_consul_reaches_no_terminal(own_agent, declare, run):
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
def test_options_that_do_not_go_with_watch_are_refused(run, other):
    ended = run("--watch", *other)
    assert ended.code == 1
    assert "--watch goes with" in ended.err


def test_the_run_names_who_started_it(consul, declare, run, monkeypatch):
    monkeypatch.setenv("LOGNAME", "deployer")
    declare("api", 8001)
    run()
    assert (SyncRun.objects.get().trigger, SyncRun.objects.get().actor) == ("command", "deployer")


# -- as a process -----------------------------------------------------------------------------------------------------


def test_as_a_process_it_gives_its_exit_code_and_nothing_but_json_on_stdout(consul, manage):
    declared = manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    assert declared.out == "declared api with 1 instance(s)\n"
    ended = manage("sync_registry", "--json", "--detailed-exitcode")
    assert (ended.code, ended.err) == (2, "")
    assert json.loads(ended.out)["results"][0]["ok"]
    plain = manage("sync_registry")
    assert (plain.code, plain.err) == (0, "")
    assert ESCAPE not in plain.out


def test_what_the_terminal_s_encoding_does_not_know_does_not_end_a_sync(consul, consul_agent, manage):
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    consul_agent.request("PUT", "/v1/agent/service/register", body={"ID": "世界", "Name": "theirs"})
    ended = manage("sync_registry", PYTHONIOENCODING="ascii")
    assert (ended.code, ended.err) == (0, "")
    assert r"\xb7 theirs  \u4e16\u754c" in ended.out
    assert "1 of 1 done." in ended.out


def test_consul_away_is_one_clear_sentence_without_a_traceback_or_the_token(manage):
    ended = manage("sync_registry", CONSUL_HTTP_TOKEN="very-secret-token", CONSUL_HTTP_ADDR="127.0.0.1:1")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "Consul at http://127.0.0.1:1 refused the connection (is it running there?).\n"


def test_a_wrong_address_of_consul_is_named_without_a_traceback(manage):
    ended = manage("sync_registry", CONSUL_HTTP_ADDR="ftp://user:password@x")
    assert ended.code == 1
    assert "CONSUL_HTTP_ADDR" in ended.err
    assert "Traceback" not in ended.err
    assert "password" not in ended.err


@pytest.mark.parametrize("command", [["sync_registry"], ["sync_registry", "--dry-run"], ["seed_inventory", "a=b:1"]])
def test_a_database_that_is_not_migrated_is_one_clear_sentence(consul, manage, tmp_path, command):
    ended = manage(*command, DATABASE_URL=f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    assert (ended.code, ended.out) == (1, "")
    assert "Run `manage.py migrate` first." in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_database_that_is_away_is_one_clear_sentence(consul, manage):
    ended = manage("sync_registry", DATABASE_URL="postgres://me:database-password@127.0.0.1:1/none")
    assert (ended.code, ended.out) == (1, "")
    assert "The database can't be used" in ended.err
    assert "Traceback" not in ended.err
    assert "database-password" not in ended.err


def on_a_terminal(environment: dict[str, str]) -> str:
    """What a person at a terminal sees of a dry run."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "sync_registry", "--dry-run"],
        cwd=ROOT, env=environment | {"TERM": "xterm-256color"}, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the process has ended, and its side of the terminal with it
        pass
    assert process.wait(30) == 0
    os.close(ours)
    return shown.decode()


def test_colours_are_for_terminals_that_want_them(consul, manage, environment):
    manage("seed_inventory", "api=127.0.0.1:8001", REGISTRY_SYNC_ON_SAVE="0")
    colour = re.compile(rf"{ESCAPE}\[[0-9;]*3[0-7]")
    coloured = on_a_terminal(environment)
    assert "api-127.0.0.1-8001" in coloured
    assert colour.search(coloured)
    plain = on_a_terminal(environment | {"NO_COLOR": "1"})
    assert "api-127.0.0.1-8001" in plain
    assert not colour.search(plain)


# -- watching ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_watching_puts_right_what_is_removed_by_hand_and_ends_cleanly(consul, manage, watch, number):
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


def test_watching_survives_an_agent_that_restarts_empty(own_agent: ConsulAgent, manage, watch):
    manage("seed_inventory", "api=127.0.0.1:8001,127.0.0.1:8002", REGISTRY_SYNC_ON_SAVE="0")
    watcher = watch(REGISTRY_PASS_INTERVAL="1s")
    wait_until(lambda: len(own_agent.request("GET", "/v1/agent/services")) == 2, what="both in Consul")
    own_agent.stop()
    wait_until(lambda: "refused the connection" in watcher.log, 20, "the watcher to notice")
    own_agent.start()
    wait_until(lambda: len(own_agent.request("GET", "/v1/agent/services")) == 2, 40, "both back in Consul")
    assert watcher.stop() == 0
    assert "all is well again" in watcher.log


def test_a_watcher_that_waits_for_consul_can_be_stopped(manage, watch):
    watcher = watch(CONSUL_HTTP_ADDR="127.0.0.1:1")
    wait_until(lambda: "pass failed" in watcher.log, what="the first failure")
    assert watcher.stop() == 0
