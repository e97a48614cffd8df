"""Names of others in the browser: what they mean to JavaScript changes nothing, and their links lead to their pages."""

from __future__ import annotations

import pytest
from django.utils import timezone

from registry_admin.callgraph.models import CallCount
from registry_admin.printable import escape_unprintable
from tests.parts.hostile import TEXTS
from tests.parts.mirrored import look, observe

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

OWN_PROPERTIES = ["constructor", "toString", "hasOwnProperty", "valueOf", "isPrototypeOf"]


def test_map_draws_services_named_like_properties_of_javascript(operator_page, live_server):
    look()
    for name in OWN_PROPERTIES:
        observe(f"{name}-1", name)
        counts = {"calls": 5, "failures": 0, "milliseconds": 1.0, "slowest_ms": 1.0}
        CallCount.objects.create(at=timezone.now(), caller=name, called="gateway", **counts)
        CallCount.objects.create(at=timezone.now(), caller="gateway", called=name, **counts)
    operator_page.goto(f"{live_server.url}/map/")
    boxes = operator_page.locator("#map-picture a.map-node")
    boxes.first.wait_for()
    assert sorted(boxes.evaluate_all("nodes => nodes.map(node => node.lastChild.textContent)")) == sorted(
        [*OWN_PROPERTIES, "gateway"]
    )
    operator_page.locator('a.map-node[aria-label^="constructor"]').click()
    operator_page.get_by_role("heading", name="constructor", exact=True).wait_for()


@pytest.mark.parametrize("kind", ["dots", "dots between", "slashes", "newline", "backslash", "percent", "tilde", "NUL"])
def test_link_of_a_name_that_browsers_rewrite_leads_to_its_page(operator_page, live_server, kind):
    look()
    name = TEXTS[kind].replace("\x00", "\N{REPLACEMENT CHARACTER}")
    observe("theirs", name, health="critical")
    operator_page.goto(f"{live_server.url}/")
    operator_page.locator("#services tbody th a").click()
    operator_page.locator("[id^=instance-observed-]").wait_for()
    assert operator_page.locator("h1").inner_text() == escape_unprintable(name)
