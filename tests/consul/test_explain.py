"""What a person is told of a service and its instances."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from registry_admin.consul import CheckKind, CheckSpec, ServiceRegistry, ServiceSpec
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.discovery.explanation import ExplainedInstance, Explanation
from tests.parts import free_port, wait_until


def explain(agent, *arguments):
    command = [sys.executable, "-m", "registry_admin.discovery", "explain", *arguments]
    env = os.environ | agent.env
    return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)


def test_a_client_tells_latency_failures_and_who_is_left_out_and_why(registry, add, http_service):
    service = http_service()
    add(service)

    class Dead:
        host, port = "127.0.0.1", free_port()

    dead = add(Dead)
    with SyncServiceDiscoveryClient(registry) as client:
        wait_until(lambda: client.get("api").ok and any(one.ejected_for_s for one in client.explain("api").instances))
        explanation = client.explain("api")
    by_id = {one.id: one for one in explanation.instances}
    assert (by_id[dead].state.startswith("left out for"), by_id[dead].reason) == (True, "connection refused")
    assert by_id[dead].failures_in_row >= 3
    (alive,) = [one for one in explanation.instances if one.id != dead]
    assert (alive.state, alive.latency_s > 0, alive.outstanding) == ("called", True, 0)
    assert "api: 1 of 2 instances are called" in str(explanation)
    assert f"known from Consul at {registry.api.config.url}" in str(explanation)


def test_from_outside_every_instance_is_shown_with_its_health_and_by_tag(agent):
    registry = ServiceRegistry(config=agent.config)
    check = CheckSpec(kind=CheckKind.TTL, interval="300s")
    ill = ServiceSpec(name="api", address="127.0.0.1", port=1001, tags=("blue",), check=check)
    registry.register(ill)
    registry.register(ServiceSpec(name="api", address="127.0.0.1", port=1002, check=CheckSpec(kind=CheckKind.NONE)))
    shown = explain(agent, "api")
    assert shown.returncode == 0, shown.stderr
    assert "api: 1 of 2 instances are called" in shown.stdout
    assert "not called" in shown.stdout
    found = json.loads(explain(agent, "api", "--json", "--tag", "blue").stdout)
    assert [(one["id"], one["called"], one["health"]) for one in found["instances"]] == [(ill.id, False, "critical")]
    assert found["source"] == "Consul"


def test_what_cannot_be_known_is_said_on_one_line(agent):
    refused = explain(agent, "../x")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "NAME" in refused.stderr


def test_what_a_check_says_cannot_write_to_the_terminal():
    instance = ExplainedInstance(
        id="api-1", url="http://10.0.0.1:80", node="\x9b1m", tags=(), weight=1, health="critical", called=False,
        outstanding=0, latency_s=None, failures_in_row=0, ejected_for_s=0.0, reason="\x1b[31mon\nfire\u202e\x07" * 50,
    )  # fmt: skip
    shown = str(
        Explanation(
            service="api", consul="http://c", source="Consul", age_s=7300.0, problem="\x1b]0;x", instances=(instance,)
        )
    )
    assert "on fire" in shown
    assert "2 h ago" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert max(map(len, shown.splitlines())) < 250
