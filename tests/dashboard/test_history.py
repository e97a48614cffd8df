"""History pages: changes of health, syncs and changes of declarations."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.inventory.actor import acting_as
from registry_admin.inventory.models import HealthTransition, Instance, Service, SyncRun
from tests.parts import mirrored

pytestmark = pytest.mark.django_db


def transition(**columns) -> HealthTransition:
    values = {
        "service_name": "api",
        "consul_id": "api-1",
        "before": "passing",
        "after": "critical",
        "output": "refused",
    }
    return HealthTransition.objects.create(**values | columns)


@pytest.fixture
def html(operator):
    def get(url: str) -> str:
        response = operator.get(url)
        assert response.status_code == 200
        return response.content.decode()

    return get


@pytest.mark.parametrize("url", ["/history/", "/history/syncs/", "/history/changes/"])
def test_history_page_without_rows_has_a_hint(url, html):
    assert 'class="registry-empty"' in html(url)


def test_health_history_is_filtered_and_linked(html):
    transition()
    transition(service_name="web", consul_id="web-1", after="", output=mirrored.HOSTILE)
    transition(at=timezone.now() - timedelta(days=2), consul_id="api-2")
    text = html("/history/")
    assert text.count('<tr id="t-') == 3
    assert '<a href="/services/api/">api</a>' in text
    assert "&lt;script&gt;alert" in text
    assert "<script>alert" not in text
    for query, count in (("service=API", 2), ("instance=api-2", 1), ("after=gone", 1), ("since=1h", 2), ("after=x", 3)):
        assert html(f"/history/?{query}").count('<tr id="t-') == count, query


def test_health_history_pages_do_not_shift_with_new_rows(html):
    rows = [transition(consul_id=f"api-{number}") for number in range(60)]
    text = html("/history/")
    assert text.count('<tr id="t-') == 50
    older = f"before={rows[10].pk}"
    assert older in text
    transition(consul_id="new")
    page = html(f"/history/?{older}")
    assert page.count('<tr id="t-') == 10
    assert "api-10<" not in page


def test_sync_page_lists_failures_first(html):
    items = [
        {"action": "register", "service": "api", "id": f"api-{n}", "reason": "not in Consul yet", "cause": "",
         "changes": [], "ok": n != 1, "error": "" if n != 1 else mirrored.HOSTILE}
        for n in range(3)
    ]  # fmt: skip
    run = SyncRun.objects.create(trigger="action", actor="ada", outcome="partial", registered=2, failed=1, items=items)
    SyncRun.objects.create(trigger="watch", outcome="done")
    text = html("/history/syncs/")
    assert f'href="/history/syncs/{run.pk}/"' in text
    assert "1 failed" in text
    assert html("/history/syncs/?actor=ada").count('<tr id="run-') == 1
    assert html("/history/syncs/?outcome=done&trigger=watch").count('<tr id="run-') == 1
    run_page = html(f"/history/syncs/{run.pk}/")
    assert run_page.index("api-1") < run_page.index("api-0")
    assert "&lt;script&gt;alert" in run_page
    assert "<script>alert" not in run_page


def test_sync_page_of_unknown_run_is_404(operator):
    assert operator.get("/history/syncs/99/").status_code == 404


def test_change_history_shows_actor_and_old_and_new_value(html):
    with acting_as("ada", "admin"):
        service = Service.objects.create(name="api", owner="team-blue")
    with acting_as("bob", "manage.py import_registry"):
        service.owner = "team-red"
        service.save()
        instance = Instance.objects.create(service=service, address="127.0.0.1", port=8001)
        instance.delete()
    text = html("/history/changes/")
    assert "<del>team-blue</del> → <ins>team-red</ins>" in text
    assert "manage.py import_registry" in text
    assert text.index("Deleted instance") < text.index("Created instance") < text.index("Changed service")
    assert html("/history/changes/?actor=ada").count("<tr id=") == 1
    assert html("/history/changes/?service=API").count("<tr id=") == 4
    assert html("/history/changes/?service=other").count("<tr id=") == 0


def test_change_history_of_deleted_service_is_kept(html, operator):
    with acting_as("ada", "admin"):
        Service.objects.create(name="api").delete()
    assert html("/history/changes/?service=api").count("<tr id=") == 2
    assert b"/history/changes/?service=api" in operator.get("/services/api/").content


def test_change_history_query_count_does_not_grow_with_rows(operator, count_queries):
    service = Service.objects.create(name="api")
    Instance.objects.create(service=service, address="127.0.0.1", port=8001)
    service.save()
    few = len(count_queries(lambda: operator.get("/history/changes/")))
    for number in range(30):
        service.owner = f"team-{number}"
        service.save()
        Instance.objects.create(service=service, address="127.0.0.1", port=9000 + number)
    assert len(count_queries(lambda: operator.get("/history/changes/"))) == few
