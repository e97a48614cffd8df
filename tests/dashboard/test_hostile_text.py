"""Every page with everything that anybody may register at a real Consul."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from registry_admin.dashboard.selectors.overview import PAGE_SIZE
from registry_admin.inventory.models import HealthTransition, Instance, ObservedInstance, Service, SyncRun
from registry_admin.inventory.sanitize import truncated
from tests.dashboard.test_access import page_paths
from tests.parts.hostile import TEXTS, HostileConsul

pytestmark = pytest.mark.django_db(transaction=True)

MAX_PAGES = 40
EVERYTHING = truncated("".join(text[:9] for text in TEXTS.values()))


class Links(HTMLParser):
    """Parser that collects the targets of links, and the text of each."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page
        self.targets: dict[str, str] = {}
        self._target = ""

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self._target = urljoin(self._page, dict(attrs).get("href") or "")
            self.targets.setdefault(self._target, "")

    def handle_endtag(self, tag):
        if tag == "a":
            self._target = ""

    def handle_data(self, data):
        if self._target:
            self.targets[self._target] += data


@pytest.fixture
def mirrored(hostile_consul, use_consul, declare, sync, settings) -> HostileConsul:
    """Everything hostile is mirrored, beside a declared service; each text has a health transition."""
    use_consul(hostile_consul.agent)
    settings.REGISTRY = {"SYNC_ON_SAVE": "0"}
    declare("api", 8001)
    result = sync()
    assert result.error is None, result.error
    return hostile_consul


def open_page(client: Client, path: str) -> tuple[Any, dict[str, str]]:
    """Opens a page, checks that no character in it is obeyed by anything, and returns it and its links with their text.

    Django's own templates have tabs.
    """
    response = client.get(path)
    assert response.status_code == 200, path
    text = response.content.decode()
    obeyed = [text[max(0, at - 60) : at + 20] for at, c in enumerate(text) if not c.isprintable() and c not in "\n\t"]
    assert obeyed[:3] == [], path
    assert "<script>alert" not in text, path
    assert '" onmouseover="' not in text, path
    links = Links(path)
    links.feed(text)
    return response, links.targets


def links_of_all_pages(client: Client, path: str) -> dict[str, str]:
    """Opens the page and all that its pager leads to, and returns the links of them all."""
    targets: dict[str, str] = {}
    following: str | None = path
    for _ in range(MAX_PAGES):
        if following is None:
            return targets
        _, links = open_page(client, following)
        targets |= links
        base = urlsplit(following).path
        following = next(
            (to for to, text in links.items() if urlsplit(to).path == base and text in ("Next ›", "Older ›")), None
        )
    pytest.fail(f"{path} has no end")


def test_overview_and_history_link_a_page_of_every_service_that_consul_takes(mirrored, operator):
    assert mirrored.refused == {}
    names = {truncated(name) for name in mirrored.names() if name != "api"}
    observed = set(ObservedInstance.objects.values_list("service_name", flat=True))
    assert names <= observed
    assert len(observed) > PAGE_SIZE
    on_overview, in_history = (
        {target for target in links_of_all_pages(operator, path) if target.startswith("/services/")}
        for path in ("/", "/history/")
    )
    assert on_overview == in_history
    assert len(on_overview) == len(observed)
    pages = [open_page(operator, link)[0] for link in sorted(on_overview) if "/on-node-" not in link]
    opened = {page.context["view"].name.lower() for page in pages}
    assert {name.lower() for name in names} <= opened


def test_snapshot_leaves_out_only_nodes_that_consul_itself_refuses_to_show(mirrored):
    nodes = {node["Node"] for node in mirrored.agent.request("GET", "/v1/catalog/nodes")}
    mirrored_nodes = set(ObservedInstance.objects.values_list("node", flat=True))
    assert TEXTS["newline"] in nodes - mirrored_nodes
    assert {TEXTS["slash"], TEXTS["script"], TEXTS["Arabic"]} <= mirrored_nodes


@pytest.fixture
def site_data(mirrored) -> dict[str, Any]:
    """Keys of rows for each address of the URL conf; the hostile ones where there are any."""
    run = SyncRun.objects.create(
        trigger="action",
        outcome="partial",
        actor=EVERYTHING[:150],
        message=EVERYTHING,
        scope=[EVERYTHING],
        items=[
            {"id": EVERYTHING, "service": EVERYTHING, "action": "update", "reason": EVERYTHING, "error": EVERYTHING}
        ],
    )
    overridden = {"consul_id": truncated(TEXTS["override"])}
    return {
        "service": Service.objects.get().pk, "instance": Instance.objects.get().pk, "syncrun": run.pk, "run": run.pk,
        "healthtransition": HealthTransition.objects.get(**overridden).pk, "user": User.objects.get().pk,
        "observedinstance": ObservedInstance.objects.get(**overridden).pk, "group": Group.objects.first().pk,
        "name": TEXTS["line separator"],
    }  # fmt: skip


def test_every_page_opens_and_shows_no_invisible_character(operator, site_data):
    opened = 0
    for path in page_paths(site_data):
        response = operator.get(path)
        assert response.status_code in (200, 302, 401 if path.startswith("/api/v1/") else 403, 404, 405), path
        if response.status_code == 200 and response["Content-Type"].startswith("text/html"):
            links_of_all_pages(operator, path)
            opened += 1
    assert opened > 30
