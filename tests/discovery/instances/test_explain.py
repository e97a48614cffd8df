"""Explanations of a service, from a client and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from registry_admin.consul import CheckKind, CheckSpec, ServiceRegistry, ServiceSpec
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.discovery.instances.explain import ExplainedInstance, Explanation
from registry_admin.discovery.instances.service_cache import InstanceSource
from tests.parts import free_port, wait_until


def run_explain(agent, *arguments):
    command = [sys.executable, "-m", "registry_admin.discovery", "explain", *arguments]
    env = os.environ | agent.env
    return subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)


def test_explain_shows_latency_and_ejection_with_its_reason(registry, add, http_service):
    service = http_service()
    add(service)

    class Refusing:
        host, port = "127.0.0.1", free_port()

    refusing_id = add(Refusing)
    with SyncServiceDiscoveryClient(registry) as client:
        wait_until(
            lambda: client.get("api").ok and any(row.ejected_for_s for row in client.explain("api").instances),
            what="the ejection",
        )
        explanation = client.explain("api")
    by_id = {instance.id: instance for instance in explanation.instances}
    refusing = by_id.pop(refusing_id)
    assert (refusing.state.startswith("ejected for"), refusing.reason) == (True, "connection refused")
    assert refusing.failures_in_row >= 3
    (healthy,) = by_id.values()
    assert (healthy.state, healthy.latency_s > 0, healthy.outstanding) == ("called", True, 0)
    assert "api: 1 of 2 instances are called" in str(explanation)
    assert f"known from Consul at {registry.api.config.url}" in str(explanation)


def test_explain_command_shows_every_instance_with_its_health_and_filters_by_tag(agent):
    registry = ServiceRegistry(config=agent.config)
    check = CheckSpec(kind=CheckKind.TTL, interval="300s")
    critical = ServiceSpec(name="api", address="127.0.0.1", port=1001, tags=("blue",), check=check)
    registry.register(critical)
    registry.register(ServiceSpec(name="api", address="127.0.0.1", port=1002, check=CheckSpec(kind=CheckKind.NONE)))
    done = run_explain(agent, "api")
    assert done.returncode == 0, done.stderr
    assert "api: 1 of 2 instances are called" in done.stdout
    assert "not called" in done.stdout
    document = json.loads(run_explain(agent, "api", "--json", "--tag", "blue").stdout)
    instances = [(instance["id"], instance["called"], instance["health"]) for instance in document["instances"]]
    assert instances == [(critical.id, False, "critical")]
    assert document["source"] == "Consul"


def test_explain_command_invalid_name_is_an_error_on_one_line(agent):
    done = run_explain(agent, "../x")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "NAME" in done.stderr


def test_explanation_control_characters_are_replaced():
    instance = ExplainedInstance(
        id="api-1", url="http://10.0.0.1:80", node="\x9b1m", tags=(), weight=1, health="critical", called=False,
        outstanding=0, latency_s=None, failures_in_row=0, ejected_for_s=0.0, reason="\x1b[31mon\nfire\u202e\x07" * 50,
    )  # fmt: skip
    explanation = Explanation(
        service="api",
        consul="http://c",
        source=InstanceSource.CONSUL,
        age_s=7300.0,
        problem="\x1b]0;x",
        instances=(instance,),
    )
    text = str(explanation)
    assert "on fire" in text
    assert "2 h ago" in text
    assert all(character.isprintable() or character == "\n" for character in text)
    assert max(map(len, text.splitlines())) < 250
