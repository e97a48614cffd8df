"""The API beside a real Consul: what it tells of a service before and after it is registered."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from registry_admin.api.tokens import make_token

pytestmark = pytest.mark.django_db(transaction=True)


def test_service_is_in_consul_and_synced_after_a_sync(consul, declare, sync, settings):
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    _, token = make_token("tests", days=1, now=timezone.now())
    client = Client(headers={"Authorization": f"Bearer {token}"})

    def told() -> tuple[str, bool]:
        (item,) = client.get("/api/v1/instances?service=api").json()["items"]
        assert client.get("/api/v1/services/api").json()["sync"] == item["sync"]
        return item["sync"], item["in_consul"]

    assert told()[1] is False
    sync()
    assert told() == ("synced", True)
