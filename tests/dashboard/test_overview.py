"""Overview page: the attention list and the table of services."""

from __future__ import annotations

import importlib
import itertools
import re
from datetime import timedelta

import pytest
from django.utils import timezone

from registry_admin.consul import Health
from registry_admin.dashboard.overview_columns import COLUMNS, NAME
from registry_admin.dashboard.selectors import overview
from registry_admin.inventory.models import ConsulContact, HealthTransition, ObservedInstance, Service
from tests.parts import mirrored

pytestmark = pytest.mark.django_db


@pytest.fixture
def current(db):
    """Current contact to Consul."""
    return mirrored.look()


@pytest.fixture
def html(operator):
    """Returns `html("q=…")`: requests the page with this query and returns its text."""

    def get(query: str = "") -> str:
        response = operator.get(f"/?{query}")
        assert response.status_code == 200
        return response.content.decode()

    return get


def service_names(html: str) -> list[str]:
    """Returns the names in the table of services, in order."""
    table = html.partition('id="services"')[2].partition("</table>")[0]
    return re.findall(r'<th scope="row"><a href="[^"]*">([^<]*)</a>', table)


def attention_names(html: str) -> list[str]:
    """Returns the names in the attention list, in order."""
    section = html.partition('id="attention"')[2].partition("</section>")[0]
    return re.findall(r'attention-head"><a href="[^"]*">([^<]*)</a>', section)


def test_overview_without_services_names_the_next_step(html):
    text = html()
    assert "No service is declared" in text
    assert "/admin/inventory/service/add/" in text
    assert "import_registry" in text


def test_overview_with_every_service_healthy_says_so(current, html):
    mirrored.declare("api")
    text = html()
    assert "Nothing needs attention" in text
    assert "Everything that is declared is in Consul and well." in text
    assert attention_names(text) == []


def test_attention_list_is_by_severity_with_reason_and_time(current, html):
    mirrored.declare("api", 2)
    mirrored.declare("web", first_port=8100)
    mirrored.declare("well", first_port=8200)
    mirrored.fail("web-127.0.0.1-8100", "Get http://127.0.0.1:8100/health: connection refused\nsecond line")
    mirrored.lose("api-127.0.0.1-8001")
    text = html()
    assert attention_names(text) == ["web", "api"]
    section = text.partition('id="attention"')[2].partition("</section>")[0]
    assert "2 services need attention" in section
    assert "connection refused" in section
    assert "second line" not in section
    assert "not in Consul any more (removed by hand)" in section
    assert "an hour ago" in section or "1&nbsp;hour ago" in section or "1\xa0hour ago" in section


def test_attention_list_has_undeclared_service_last(current, html):
    mirrored.observe("theirs-1", "aaa")
    mirrored.fail("theirs-1")
    mirrored.declare("web")
    mirrored.fail("web-127.0.0.1-8000")
    assert attention_names(html()) == ["web", "aaa"]


def test_sync_button_needs_the_permission(current, html, client_of, make_user):
    mirrored.declare("api")
    mirrored.lose("api-127.0.0.1-8000")
    assert 'name="action" value="sync"' in html()
    viewer = client_of(make_user("view_service", name="viewer")).get("/").content.decode()
    assert service_names(viewer) == ["api"]
    assert 'name="action"' not in viewer
    assert "Add service" not in viewer


def test_overview_while_consul_is_unreachable_shows_unknown(current, html):
    mirrored.declare("api")
    mirrored.observe("theirs", "billing", health="warning")
    ConsulContact.objects.update(reachable=False, problem="Consul refused the connection", since=timezone.now())
    text = html()
    assert "Consul refused the connection" in text
    assert "Unknown <small>(was Passing)</small>" in text
    for green in ("chip-passing", "chip-synced", "cell-passing"):
        assert green not in text
    assert "Everything that is declared is in Consul and well." not in text


def test_count_links_filter_and_clear_the_filter(current, html):
    mirrored.declare("api")
    mirrored.declare("web", first_port=8100)
    mirrored.fail("web-127.0.0.1-8100")
    mirrored.observe("theirs", "billing")
    text = html()
    assert 'id="health-critical" href="?health=critical"' in text
    assert service_names(html("health=critical")) == ["web"]
    assert service_names(html("sync=unmanaged")) == ["billing"]
    assert service_names(html("health=critical&sync=unmanaged")) == []
    assert 'id="health-critical" href="?"' in html("health=critical") or 'href="/"' in html("health=critical")
    assert "No service matches" in html("health=maintenance")


@pytest.mark.parametrize(
    ("query", "expected"),
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
def test_overview_query_filters_services(query, expected, current, html):
    mirrored.declare("backend-api", owner="team-blue", tags=["fast"])
    mirrored.declare("web", first_port=8100)
    mirrored.observe("theirs-1", "billing")
    assert service_names(html(query)) == expected


def test_overview_sorts_by_name_health_and_sync_status(current, html):
    mirrored.declare("b")
    mirrored.declare("a", first_port=8100)
    mirrored.declare("c", first_port=8200)
    mirrored.fail("b-127.0.0.1-8000")
    mirrored.lose("c-127.0.0.1-8200")
    assert service_names(html()) == ["a", "b", "c"]
    assert service_names(html("sort=-name")) == ["c", "b", "a"]
    assert service_names(html("sort=health"))[0] == "b"
    assert service_names(html("sort=sync"))[0] == "c"
    assert 'aria-sort="descending"' in html("sort=-name")


@pytest.mark.parametrize(
    "column", [column for column in (NAME, *COLUMNS) if column.order], ids=lambda column: column.key
)
def test_sortable_column_sorts_in_both_directions(column, current, html):
    mirrored.declare("b", owner="team-a")
    mirrored.declare("a", first_port=8100, owner="team-b")
    mirrored.observe("foreign-1", "c")
    for sort in (column.key, f"-{column.key}"):
        text = html(f"sort={sort}")
        assert sorted(service_names(text)) == ["a", "b", "c"]
        assert f">{column.title} " in text


def test_sort_by_owner_orders_by_owner(current, html):
    mirrored.declare("b", owner="team-a")
    mirrored.declare("a", first_port=8100, owner="team-b")
    assert service_names(html("sort=owner")) == ["b", "a"]
    assert service_names(html("sort=-owner")) == ["a", "b"]


def test_service_health_is_the_most_severe_whether_declared_or_not(current, html, operator):
    for number, health in enumerate(("maintenance", "unknown")):
        mirrored.observe(f"billing-{number}", "billing", health=health)
    assert "chip-unknown" in html().partition('id="row-billing"')[2].partition("</tr>")[0]
    statuses = operator.get("/services/billing/").content.decode().partition('id="service-statuses"')[2]
    assert "chip-unknown" in statuses.partition("</p>")[0]
    assert Health.worst([Health.MAINTENANCE, Health.UNKNOWN]) is Health.UNKNOWN  # of declared services, by the mirror


def test_last_change_is_that_of_declaration_or_health(current, html):
    for number, name in enumerate(("old", "new")):
        mirrored.declare(name, first_port=8000 + 100 * number)
    long_ago = timezone.now() - timedelta(days=9)
    Service.objects.update(updated_at=long_ago)
    ObservedInstance.objects.filter(service_name="old").update(health_since=long_ago)
    text = html("sort=changed")
    assert service_names(text) == ["new", "old"]
    assert f"{long_ago:%Y-%m-%d %H:%M:%S} UTC" in text.partition('id="row-old"')[2]
    assert f"{long_ago:%Y-%m-%d %H:%M:%S} UTC" not in text.partition('id="row-new"')[2].partition("</tr>")[0]


def test_overview_of_many_services_is_paginated(current, html):
    for number in range(60):
        mirrored.declare(f"s-{number:02}", 0)
    text = html()
    assert service_names(text) == [f"s-{number:02}" for number in range(50)]
    assert "1 to 50 of 60" in text
    assert service_names(html("page=2")) == [f"s-{number}" for number in range(50, 60)]
    assert 'rel="next"' not in html("page=2")


def test_instance_cells_are_labelled_and_limited_with_a_count(current, html):
    mirrored.declare("api", 30)
    mirrored.fail("api-127.0.0.1-8007")
    mirrored.lose("api-127.0.0.1-8003")
    text = html()
    assert text.count('class="cell cell-') == 24
    assert "+6" in text
    assert "127.0.0.1:8007: Critical" in text
    assert "127.0.0.1:8003: Missing" in text


def test_availability_bars_show_past_health(current, html):
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


def test_overview_escapes_hostile_text(current, html):
    mirrored.observe("evil", f"x{mirrored.HOSTILE}")
    mirrored.fail("evil", mirrored.HOSTILE)
    text = html()
    assert "&lt;script&gt;alert" in text
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text.partition("attention")[2].partition("</section>")[0].replace(f"x{mirrored.HOSTILE}", "")


def test_overview_query_count_does_not_grow_with_services(current, operator, count_queries):
    mirrored.declare("few", 2)
    mirrored.observe("theirs", "billing")
    few = len(count_queries(lambda: operator.get("/")))
    for number in range(40):
        mirrored.declare(f"s-{number}", 5, first_port=10_000 + 10 * number)
        mirrored.observe(f"theirs-{number}", f"billing-{number}")
    mirrored.fail("s-3-127.0.0.1-10031")
    mirrored.lose("s-4-127.0.0.1-10041")
    many = len(count_queries(lambda: operator.get("/")))
    assert many <= few + 2  # the attention list needs queries only if it has rows


def test_counts_of_unchanged_state_come_from_the_shared_cache(
    transactional_db, redis_server, use_redis, count_queries, monkeypatch
):
    stamp_module = importlib.import_module("registry_admin.inventory.selectors.state_stamp")
    monkeypatch.setattr(stamp_module, "RENEWAL_S", 10**9)
    ConsulContact.objects.create(pk=1, reachable=True, seen_at=timezone.now())
    Service.objects.create(name="api")
    results = []

    def count() -> None:
        results.append(overview.counts(overview.OverviewFilter()).total)

    queries = []
    for _process in range(2):
        use_redis(redis_server.url)
        queries.append(len(count_queries(count)))
    Service.objects.create(name="web")
    queries.append(len(count_queries(count)))
    assert results == [1, 1, 2]
    assert queries == [2, 1, 2]


FILTERS = {
    "kind": ("", *overview.KINDS),
    "health": ("", "passing", "critical"),
    "sync": ("", "synced", "unmanaged"),
    "owner": ("", "team-a"),
    "q": ("", "a"),
}


@pytest.mark.parametrize("sort", [f"{sign}{key}" for key in overview.SORT_ORDERS for sign in ("", "-")])
def test_overview_has_a_page_for_every_order_and_combination_of_filters(sort, current, html):
    mirrored.declare("a", owner="team-a")
    mirrored.declare("b", first_port=8100)
    mirrored.observe("foreign-1", "c")
    assert sorted(service_names(html(f"sort={sort}"))) == ["a", "b", "c"]
    for values in itertools.product(*FILTERS.values()):
        query = dict(zip(FILTERS, values, strict=True)) | {"sort": sort}
        rows, _ = overview.services(overview.OverviewFilter.from_query(query), now=timezone.now())
        assert {row.name for row in rows} <= {"a", "b", "c"}
