"""The dashboard: what needs attention, and all services."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.inventory.models import ConsulContact, HealthTransition, ObservedInstance, Service
from tests.inventory import mirrored

pytestmark = pytest.mark.django_db


@pytest.fixture
def seen(db):
    return mirrored.look()


@pytest.fixture
def html(operator):
    """`html("q=…")`: the page as text."""

    def get(query: str = "") -> str:
        response = operator.get(f"/?{query}")
        assert response.status_code == 200
        return response.content.decode()

    return get


def listed(html: str) -> list[str]:
    """The names in the table, in their order."""
    table = html.partition('id="services"')[2].partition("</table>")[0]
    return re.findall(r'<th scope="row"><a href="[^"]*">([^<]*)</a>', table)


def needing(html: str) -> list[str]:
    """The names among what needs attention, in their order."""
    section = html.partition('id="attention"')[2].partition("</section>")[0]
    return re.findall(r'attention-head"><a href="[^"]*">([^<]*)</a>', section)


def test_with_nothing_at_all_the_next_step_is_named(html):
    text = html()
    assert "No service is declared" in text
    assert "/admin/inventory/service/add/" in text
    assert "import_registry" in text


def test_when_all_is_well_that_is_said(seen, html):
    mirrored.declare("api")
    text = html()
    assert "Nothing needs attention" in text
    assert "Everything that is declared is in Consul and well." in text
    assert needing(text) == []


def test_what_needs_attention_comes_first_with_its_reason_and_since_when(seen, html):
    mirrored.declare("api", 2)
    mirrored.declare("web", first_port=8100)
    mirrored.declare("well", first_port=8200)
    mirrored.fail("web-127.0.0.1-8100", "Get http://127.0.0.1:8100/health: connection refused\nsecond line")
    mirrored.lose("api-127.0.0.1-8001")
    text = html()
    assert needing(text) == ["web", "api"]
    section = text.partition('id="attention"')[2].partition("</section>")[0]
    assert "2 services need attention" in section
    assert "connection refused" in section
    assert "second line" not in section
    assert "not in Consul any more (removed by hand)" in section
    assert "an hour ago" in section or "1&nbsp;hour ago" in section or "1\xa0hour ago" in section


def test_what_is_not_declared_and_fails_comes_last(seen, html):
    mirrored.observe("theirs-1", "aaa")
    mirrored.fail("theirs-1")
    mirrored.declare("web")
    mirrored.fail("web-127.0.0.1-8000")
    assert needing(html()) == ["web", "aaa"]


def test_who_may_sync_gets_the_button_and_others_do_not(seen, html, client_of, make_user):
    mirrored.declare("api")
    mirrored.lose("api-127.0.0.1-8000")
    assert 'name="action" value="sync"' in html()
    viewer = client_of(make_user("view_service", name="viewer")).get("/").content.decode()
    assert 'name="action"' not in viewer
    assert "Add service" not in viewer


def test_while_consul_is_away_nothing_is_shown_as_well(seen, html):
    mirrored.declare("api")
    mirrored.observe("theirs", "billing", health="warning")
    ConsulContact.objects.update(reachable=False, problem="Consul refused the connection", since=timezone.now())
    text = html()
    assert "Consul refused the connection" in text
    assert "Unknown <small>(was Passing)</small>" in text
    for green in ("chip-passing", "chip-synced", "cell-passing"):
        assert green not in text
    assert "Everything that is declared is in Consul and well." not in text


def test_counts_filter_and_a_second_click_shows_all_again(seen, html):
    mirrored.declare("api")
    mirrored.declare("web", first_port=8100)
    mirrored.fail("web-127.0.0.1-8100")
    mirrored.observe("theirs", "billing")
    text = html()
    assert 'id="health-critical" href="?health=critical"' in text
    assert listed(html("health=critical")) == ["web"]
    assert listed(html("sync=unmanaged")) == ["billing"]
    assert listed(html("health=critical&sync=unmanaged")) == []
    assert 'id="health-critical" href="?"' in html("health=critical") or 'href="/"' in html("health=critical")
    assert "No service matches" in html("health=maintenance")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=BACK", ["backend-api"]),
        ("q=blue", ["backend-api"]),
        ("q=fast", ["backend-api"]),
        ("q=8100", ["web"]),
        ("q=theirs", ["billing"]),
        ("q=%25", []),
        ("q=%00", ["backend-api", "billing", "web"]),
        ("kind=declared", ["backend-api", "web"]),
        ("kind=foreign", ["billing"]),
        ("owner=team-blue", ["backend-api"]),
        ("kind=nonsense&health=x&sync=y&sort=password&page=-3", ["backend-api", "billing", "web"]),
    ],
)
def test_search_and_filters(query, found, seen, html):
    mirrored.declare("backend-api", owner="team-blue", tags=["fast"])
    mirrored.declare("web", first_port=8100)
    mirrored.observe("theirs-1", "billing")
    assert listed(html(query)) == found


def test_sorting(seen, html):
    mirrored.declare("b")
    mirrored.declare("a", first_port=8100)
    mirrored.declare("c", first_port=8200)
    mirrored.fail("b-127.0.0.1-8000")
    mirrored.lose("c-127.0.0.1-8200")
    assert listed(html()) == ["a", "b", "c"]
    assert listed(html("sort=-name")) == ["c", "b", "a"]
    assert listed(html("sort=health"))[0] == "b"
    assert listed(html("sort=sync"))[0] == "c"
    assert 'aria-sort="descending"' in html("sort=-name")


def test_the_last_change_is_that_of_the_declaration_or_of_health(seen, html):
    for number, name in enumerate(("old", "new")):
        mirrored.declare(name, first_port=8000 + 100 * number)
    long_ago = timezone.now() - timedelta(days=9)
    Service.objects.update(updated_at=long_ago)
    ObservedInstance.objects.filter(service_name="old").update(health_since=long_ago)
    text = html("sort=changed")
    assert listed(text) == ["new", "old"]
    assert f"{long_ago:%Y-%m-%d %H:%M:%S} UTC" in text.partition('id="row-old"')[2]
    assert f"{long_ago:%Y-%m-%d %H:%M:%S} UTC" not in text.partition('id="row-new"')[2].partition("</tr>")[0]


def test_many_services_come_in_pages(seen, html):
    for number in range(60):
        mirrored.declare(f"s-{number:02}", 0)
    text = html()
    assert listed(text) == [f"s-{number:02}" for number in range(50)]
    assert "1 to 50 of 60" in text
    assert listed(html("page=2")) == [f"s-{number}" for number in range(50, 60)]
    assert 'rel="next"' not in html("page=2")


def test_instances_are_cells_with_words_and_too_many_are_counted(seen, html):
    mirrored.declare("api", 30)
    mirrored.fail("api-127.0.0.1-8007")
    mirrored.lose("api-127.0.0.1-8003")
    text = html()
    assert text.count('class="cell cell-') == 24
    assert "+6" in text
    assert "127.0.0.1:8007: Critical" in text
    assert "127.0.0.1:8003: Missing" in text


def test_bars_show_what_was(seen, html):
    mirrored.declare("api")
    now = timezone.now()
    for minutes, before, after in ((300, "passing", "critical"), (200, "critical", "passing")):
        HealthTransition.objects.create(
            at=now - timedelta(minutes=minutes), node=mirrored.NODE, service_name="api", before=before, after=after,
            consul_id="api-127.0.0.1-8000",
        )  # fmt: skip
    ObservedInstance.objects.update(first_seen=now - timedelta(days=3))
    text = html()
    assert 'class="bar-critical"' in text
    assert 'class="bar-passing"' in text
    assert "% available; worst" in text


def test_hostile_text_is_harmless(seen, html):
    mirrored.observe("evil", f"x{mirrored.HOSTILE}")
    mirrored.fail("evil", mirrored.HOSTILE)
    text = html()
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text.partition("attention")[2].partition("</section>")[0].replace(f"x{mirrored.HOSTILE}", "")


def test_the_number_of_queries_does_not_grow(seen, operator, count_queries):
    mirrored.declare("few", 2)
    mirrored.observe("theirs", "billing")
    few = len(count_queries(lambda: operator.get("/")))
    for number in range(40):
        mirrored.declare(f"s-{number}", 5, first_port=10_000 + 10 * number)
        mirrored.observe(f"theirs-{number}", f"billing-{number}")
    mirrored.fail("s-3-127.0.0.1-10031")
    mirrored.lose("s-4-127.0.0.1-10041")
    assert len(count_queries(lambda: operator.get("/"))) <= few + 2  # what needs attention is asked for only then
