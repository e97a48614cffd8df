"""docker-compose.yml: least privilege, networks apart, one volume of secrets for each container, exact images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MODULES = ("backend", "research")


def mounted_volumes(name: str) -> set[str]:
    return {volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])}


def networks(name: str) -> set[str]:
    return set(SERVICES[name].get("networks", []))


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]


@pytest.mark.parametrize("name", SERVICES)
def test_temporary_folders_have_a_size(name):
    for folder in SERVICES[name].get("tmpfs", []):
        assert "size=" in folder


@pytest.mark.parametrize("name", SERVICES)
def test_published_port_is_on_loopback(name):
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", MODULES)
def test_module_reaches_consul_and_no_database(name):
    assert networks(name) & networks("consul")
    assert not networks(name) & (networks("postgres") | networks("redis"))


def test_network_of_the_databases_has_no_way_out():
    assert networks("postgres") == networks("redis") == {"data"}
    assert COMPOSE["networks"]["data"] == {"internal": True}


@pytest.mark.parametrize("name", [*MODULES, "postgres", "redis"])
def test_secrets_of_a_container_are_in_a_volume_of_its_own(name):
    volume = f"{name}-secrets"
    jobs = {"secrets", "migrate"} if name in MODULES else {"secrets"}
    assert {service for service in SERVICES if volume in mounted_volumes(service)} == {name, *jobs}


def test_management_token_is_seen_by_the_job_that_needs_it_only():
    assert {name for name in SERVICES if "consul-secrets" in mounted_volumes(name)} == {"secrets", "consul-acl"}


def test_consul_denies_by_default():
    assert '"default_policy": "deny"' in SERVICES["consul"]["environment"]["CONSUL_LOCAL_CONFIG"]


def test_images_are_named_by_exact_version():
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += re.findall(r"^FROM ([\w./-]+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) >= 5
    for image in images:
        parts = 2 if image.startswith("postgres:") else 3
        assert re.search(rf":(\$\{{\w+:-)?\d+(\.\d+){{{parts - 1}}}", image), image
