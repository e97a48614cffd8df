"""Fields of entries in Consul's replies."""

from __future__ import annotations

import json

import pytest

from registry_admin.consul.reply_fields import shared
from registry_admin.consul.types import ServiceInstance

ENTRY = {"ID": "a", "Service": "api", "Tags": ["blue"], "Meta": {"team": "x"}, "Address": "10.0.0.1", "Port": 80}


def parsed() -> ServiceInstance:
    return ServiceInstance.from_agent(json.loads(json.dumps(ENTRY)), ())


def test_what_instances_have_alike_is_one_object():
    one, other = parsed(), parsed()
    assert (one.service, one.tags, dict(one.meta)) == ("api", ("blue",), {"team": "x"})
    assert one.service is other.service
    assert one.tags[0] is other.tags[0]
    assert next(iter(one.meta)) is next(iter(other.meta))


@pytest.mark.parametrize("text", ["", "blue", "\ud800", "x" * 100_000])
def test_shared_text_is_equal(text):
    assert shared(str(text)) == text
