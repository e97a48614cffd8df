"""What happened, on pages."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.inventory import acting
from registry_admin.inventory.models import HealthTransition, Instance, Service, SyncRun
from tests.inventory import mirrored

pytestmark = pytest.mark.django_db


def transition(**columns) -> HealthTransition:
    usual = {"service_name": "api", "consul_id": "api-1", "before": "passing", "after": "critical", "output": "refused"}
    return HealthTransition.objects.create(**usual | columns)


@pytest.fixture
def html(operator):
    def get(url: str) -> str:
        response = operator.get(url)
        assert response.status_code == 200
        return response.content.decode()

    return get


@pytest.mark.parametrize("url", ["/history/", "/history/syncs/", "/history/changes/"])
def test_an_empty_history_says_when_something_will_stand_there(url, html):
    assert 'class="registry-empty"' in html(url)


def test_changes_of_health_are_filtered_and_linked(html):
    transition()
    transition(service_name="web", consul_id="web-1", after="", output=mirrored.HOSTILE)
    transition(at=timezone.now() - timedelta(days=2), consul_id="api-2")
    text = html("/history/")
    assert text.count('<tr id="t-') == 3
    assert '<a href="/services/api/">api</a>' in text
    assert "<script>alert" not in text
    for query, count in (("service=API", 2), ("instance=api-2", 1), ("after=gone", 1), ("since=1h", 2), ("after=x", 3)):
        assert html(f"/history/?{query}").count('<tr id="t-') == count, query


def test_history_comes_in_pages_that_do_not_shift(html):
    rows = [transition(consul_id=f"api-{number}") for number in range(60)]
    text = html("/history/")
    assert text.count('<tr id="t-') == 50
    older = f"before={rows[10].pk}"
    assert older in text
    transition(consul_id="new")
    page = html(f"/history/?{older}")
    assert page.count('<tr id="t-') == 10
    assert "api-10<" not in page


def test_syncs_and_one_of_them_with_its_failures_first(html):
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
    one = html(f"/history/syncs/{run.pk}/")
    assert one.index("api-1") < one.index("api-0")
    assert "<script>alert" not in one


def test_a_sync_that_is_gone_is_a_404(operator):
    assert operator.get("/history/syncs/99/").status_code == 404


def test_who_changed_which_declaration_from_what_to_what(html):
    with acting.acting("ada", "admin"):
        service = Service.objects.create(name="api", owner="team-blue")
    with acting.acting("bob", "manage.py import_registry"):
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


def test_a_service_that_is_gone_keeps_its_history(html, operator):
    with acting.acting("ada", "admin"):
        Service.objects.create(name="api").delete()
    assert html("/history/changes/?service=api").count("<tr id=") == 2
    assert b"/history/changes/?service=api" in operator.get("/services/api/").content


def test_the_number_of_queries_does_not_grow(operator, count_queries):
    service = Service.objects.create(name="api")
    Instance.objects.create(service=service, address="127.0.0.1", port=8001)
    service.save()
    few = len(count_queries(lambda: operator.get("/history/changes/")))
    for number in range(30):
        service.owner = f"team-{number}"
        service.save()
        Instance.objects.create(service=service, address="127.0.0.1", port=9000 + number)
    assert len(count_queries(lambda: operator.get("/history/changes/"))) == few
