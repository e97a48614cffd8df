"""Calls while Consul answers blocking reads of a service's health from a streamed view, as it does from 1.10 on.

Such a reply knows no leader, whether there is one or not.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ConsulApi, ConsulConfig, ServiceSpec
from registry_admin.discovery.instances.disk_cache import DiskCache
from registry_admin.discovery.instances.registry_cache import RegistryCache
from registry_admin.discovery.instances.service_cache import ServiceCache
from registry_admin.errors import NoSuchServiceError
from tests.parts import wait_until
from tests.parts.translating_proxy import TranslatingProxy

SPEC = ServiceSpec(name="api", address="127.0.0.1", port=1001, check=CheckSpec(kind=CheckKind.NONE))


@pytest.fixture
def service_cache(versioned: TranslatingProxy) -> Iterator[ServiceCache]:
    api = ConsulApi(versioned.config)
    cache = RegistryCache(api, disk_cache=DiskCache(None, consul_url=api.config.url))
    yield cache.service_cache("api")
    cache.end_watches()
    api.close()


def test_watch_last_instance_deregistered_makes_the_service_unknown(versioned, service_cache, registry, caplog):
    registry.register(SPEC)
    assert len(service_cache.wait_for_group(None, same_node=False, timeout_s=5).endpoints) == 1
    registry.deregister_service(SPEC.id)
    wait_until(lambda: not service_cache.state.instances, what="the deregistration to be noticed")
    with pytest.raises(NoSuchServiceError):
        service_cache.wait_for_group(None, same_node=False, timeout_s=5)
    assert service_cache.state.error == ""
    assert "no leader" not in caplog.text
    registry.register(SPEC)
    wait_until(lambda: service_cache.state.instances, what="the new registration to be noticed")


def test_group_of_unknown_service_without_a_token_tells_that_it_may_be_hidden(versioned_guarded):
    cache = RegistryCache(ConsulApi(ConsulConfig(host=versioned_guarded.host, port=versioned_guarded.port)))
    with pytest.raises(NoSuchServiceError, match="may hide it"):
        cache.service_cache("api").wait_for_group(None, same_node=False, timeout_s=5)
    cache.end_watches()
    cache.api.close()
