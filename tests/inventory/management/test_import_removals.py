"""`manage.py import_registry`: what it takes out of Consul, and its exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from registry_admin.inventory.exchange import export_document
from registry_admin.inventory.models import Instance, Service
from tests.parts.manage_process import CommandResult

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., CommandResult]:
    """Returns `run(document, "--dry-run", …)`: runs the command in this process."""

    def command(document: str, *arguments: str) -> CommandResult:
        file = tmp_path / "registry.yaml"
        file.write_text(document)
        out, err = io.StringIO(), io.StringIO()
        code = 0
        try:
            call_command("import_registry", str(file), *arguments, stdout=out, stderr=err)
        except SystemExit as end:
            code = int(end.code or 0)
        except CommandError as error:
            code = error.returncode
            err.write(f"{error}\n")
        return CommandResult(code, out.getvalue(), err.getvalue())

    return command


def document_without(*names: str) -> str:
    return export_document(Service.objects.exclude(name__in=names), fmt="yaml")


@pytest.fixture
def registered(consul, declare):
    """Returns `registered()`: how many instances the agent has; 8 services of 2 instances each are synced."""
    for number in range(8):
        declare(f"svc{number}", 8000 + 2 * number, 8001 + 2 * number)
    return lambda: len(consul.agent_instances())


@pytest.mark.parametrize("arguments", [("--dry-run",), ()])
def test_truncated_document_is_refused_with_the_plan_shown(registered, run, arguments):
    document = document_without(*(f"svc{number}" for number in range(1, 8)))
    ended = run(document, "--delete-others", *arguments)
    assert ended.code == 3
    assert "It takes 14 out of Consul:" in ended.out
    assert "  - svc7-127.0.0.1-8015" in ended.out
    assert "--expect-removals 14" in ended.err
    assert (registered(), Service.objects.count()) == (16, 8)


def test_truncated_document_is_imported_with_the_expected_number_only(registered, run):
    document = document_without(*(f"svc{number}" for number in range(1, 8)))
    assert run(document, "--delete-others", "--expect-removals", "13").code == 3
    assert registered() == 16
    assert run(document, "--delete-others", "--expect-removals", "14").code == 0
    assert (registered(), Service.objects.count()) == (2, 1)


def test_document_that_leaves_out_one_small_service_is_refused(registered, run):
    ended = run(document_without("svc7"), "--delete-others")
    assert ended.code == 3
    assert "the service svc7 would leave Consul as a whole" in ended.err
    assert registered() == 16


def test_document_that_disables_everything_is_refused(registered, run):
    document = document_without().replace("enabled: true", "enabled: false")
    ended = run(document)
    assert ended.code == 3
    assert (registered(), Service.objects.filter(enabled=True).count()) == (16, 8)


def test_document_that_leaves_out_one_instance_is_imported(registered, run):
    Instance.objects.filter(consul_id="svc7-127.0.0.1-8015")._raw_delete("default")
    document = document_without()
    Instance.objects.create(service=Service.objects.get(name="svc7"), address="127.0.0.1", port=8015)
    assert run(document, "--delete-others").code == 0
    assert registered() == 15


@pytest.mark.parametrize("document", ["format: 1\n", "format: 1\nservices: []\n"])
def test_document_without_services_deletes_nothing(registered, run, document):
    ended = run(document, "--delete-others")
    assert ended.code == 1
    assert "Nothing was imported" in ended.err
    assert (registered(), Service.objects.count()) == (16, 8)


def test_empty_document_is_imported_only_with_the_flag_and_the_number(registered, run):
    empty = "format: 1\nservices: []\n"
    assert run(empty, "--delete-others", "--allow-empty").code == 3
    assert registered() == 16
    assert run(empty, "--delete-others", "--allow-empty", "--expect-removals", "16").code == 0
    assert (registered(), Service.objects.count()) == (0, 0)


def test_import_that_consul_refuses_is_an_error(consul, run, monkeypatch):
    from registry_admin.consul.api import ConsulApi
    from registry_admin.errors import ConsulPermissionError

    def refuse(*_args: object, **_options: object) -> None:
        raise ConsulPermissionError("the token may not write services")

    monkeypatch.setattr(ConsulApi, "register", refuse)
    service = "{name: api, check: {kind: none}, instances: [{address: 127.0.0.1, port: 1}]}"
    ended = run(f"format: 1\nservices: [{service}]\n")
    assert ended.code == 1
    assert "Imported, but not synced: api-127.0.0.1-1: the token may not write services" in ended.err
    assert Service.objects.count() == 1


def test_import_of_what_somebody_else_registered_says_so(consul, declare, run, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    consul.register(Instance.objects.get().spec(), marks={})
    document = document_without()
    Service.objects.all().delete()
    settings.REGISTRY = {}
    ended = run(document)
    assert ended.code == 3
    assert "left alone: api-127.0.0.1-8001: declared here, but someone else" in ended.err


def test_json_report_has_removals_and_why_they_are_held(registered, run):
    report = json.loads(run(document_without("svc7"), "--delete-others", "--json", "--dry-run").out)
    assert report["removals"] == ["svc7-127.0.0.1-8014", "svc7-127.0.0.1-8015"]
    assert "as a whole" in report["held"]
