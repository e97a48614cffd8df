"""Errors and explanations about instances that hold everything hostile, on a real Consul."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.discovery.__main__ import main
from registry_admin.errors import InvalidValueError, NoHealthyInstanceError
from tests.parts.hostile import SERVICE, TEXTS


@pytest.fixture
def hostile_registry(hostile_consul) -> Iterator[ServiceRegistry]:
    registry = ServiceRegistry(config=hostile_consul.agent.config)
    yield registry
    registry.api.close()


def test_no_healthy_instance_error_is_a_printable_line(hostile_registry):
    known = hostile_registry.discover_service(SERVICE, passing=False)
    assert {TEXTS["newline"], TEXTS["override"]} <= {instance.id for instance in known}
    for ask in (hostile_registry.get_service_url, SyncServiceDiscoveryClient(hostile_registry).call_service):
        with pytest.raises(NoHealthyInstanceError) as caught:
            ask(SERVICE)
        text = str(caught.value)
        assert text.isprintable()
        assert len(text) < 20_000
        assert f"and {len(known) - 20} more" in text


@pytest.mark.parametrize("name", [text for text in TEXTS.values() if text not in ("constructor", "toString")])
def test_name_that_cannot_be_declared_is_refused_with_a_printable_line(hostile_registry, name):
    if name in ("hasOwnProperty", "a"):
        return
    with pytest.raises(InvalidValueError) as caught:
        hostile_registry.discover_service(name)
    assert str(caught.value).isprintable()


def test_all_services_are_listed_whatever_their_names(hostile_registry):
    assert {TEXTS["newline"], TEXTS["dots"], TEXTS["__proto__"]} <= hostile_registry.discover_all_services().keys()


def test_explain_prints_a_table_of_printable_lines(hostile_consul, monkeypatch, capsys):
    for name, value in hostile_consul.agent.env.items():
        monkeypatch.setenv(name, value)
    assert main(["explain", SERVICE]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > len(TEXTS)
    assert [line for line in out.split("\n") if not line.isprintable()] == []
    assert main(["explain", SERVICE, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["instances"]) > len(TEXTS) - 5
    assert main(["explain", "a\nb"]) == 1
    assert capsys.readouterr().err.rstrip("\n").isprintable()
