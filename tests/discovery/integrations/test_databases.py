"""Lists of hosts for database drivers."""

from __future__ import annotations

import asyncio

import pytest

from registry_admin.consul import ServiceInstance
from registry_admin.discovery import SyncServiceDiscoveryClient
from registry_admin.discovery.integrations.databases import host_list, libpq_hosts

INSTANCES = [
    ServiceInstance(service="db", id="1", address="10.0.0.1", port=5432),
    ServiceInstance(service="db", id="2", address="2001:db8::1", port=5433),
]


def test_host_list_has_addresses_with_ports():
    assert host_list(INSTANCES) == "10.0.0.1:5432,[2001:db8::1]:5433"


def test_libpq_hosts_has_addresses_and_ports_in_the_same_order():
    assert libpq_hosts(INSTANCES) == {"host": "10.0.0.1,2001:db8::1", "port": "5432,5433"}


def test_libpq_hosts_are_understood_by_psycopg():
    psycopg = pytest.importorskip("psycopg")
    parsed = psycopg.conninfo.conninfo_to_dict(psycopg.conninfo.make_conninfo(**libpq_hosts(INSTANCES)))
    assert parsed == {"host": "10.0.0.1,2001:db8::1", "port": "5432,5433"}


def test_instances_are_the_healthy_ones_with_ejected_ones_last(registry, add, http_service):
    for service in (first := http_service(), http_service(), http_service()):
        add(service)
    client = SyncServiceDiscoveryClient(registry)
    assert {instance.port for instance in client.instances("api")} >= {first.port}
    for _ in range(100):
        with client.pick("api") as instance:
            if instance.port == first.port:
                instance.fail("it is the read replica that fell behind")
    assert [instance.port for instance in client.instances("api")][-1] == first.port
    assert [instance.port for instance in asyncio.run(client.ainstances("api"))][-1] == first.port
