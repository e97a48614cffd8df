"""Reports of who calls whom, and the map of them."""

from __future__ import annotations

import json
import threading

import pytest
from django.db import connection
from django.test import Client

from registry_admin.inventory.models import CallCount
from tests.inventory import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "a token for tests"
ONE = {"called": "backend-api", "calls": 10, "failures": 1, "milliseconds": 100.0, "slowest_ms": 40.0}


@pytest.fixture(autouse=True)
def _token(settings):
    settings.REGISTRY_REPORT_TOKEN = TOKEN


def post(body, token: str = TOKEN):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Client(enforce_csrf_checks=True).post(
        "/api/calls", content, content_type="application/json", headers=headers
    )


def report(**changes):
    return {"caller": "research-api", "calls": [ONE | changes]}


def test_reports_add_up():
    assert post(report()).status_code == 204
    assert post(report(calls=5, failures=0, slowest_ms=90)).status_code == 204
    row = CallCount.objects.get()
    assert (row.caller, row.called, row.calls, row.failures) == ("research-api", "backend-api", 15, 1)
    assert (row.milliseconds, row.slowest_ms) == (200.0, 90.0)
    assert (row.at.minute % 5, row.at.second) == (0, 0)


def test_without_the_token_nobody_may(settings):
    assert post(report(), token="").status_code == 401
    assert post(report(), token="wrong").status_code == 401
    assert post(report(), token="\N{SNOWMAN}".encode().decode("latin-1")).status_code == 401
    settings.REGISTRY_REPORT_TOKEN = ""
    assert post(report(), token="").status_code == 404
    assert not CallCount.objects.exists()


def test_modules_report_within_the_network_without_tls(settings):
    settings.SECURE_SSL_REDIRECT = True
    assert post(report()).status_code == 204


def test_a_get_is_refused(operator):
    assert operator.get("/api/calls").status_code == 405


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 50_000, "no JSON"),
        (b"\xff", "no JSON"),
        ([], "just 'caller' and 'calls'"),
        ({"caller": "a"}, "just 'caller' and 'calls'"),
        ({"caller": "a/b", "calls": []}, "caller:"),
        ({"caller": 1, "calls": []}, "caller:"),
        ({"caller": "a", "calls": {}}, "calls:"),
        ({"caller": "a", "calls": [ONE] * 2}, "calls: name each called service once"),
        ({"caller": "a", "calls": [ONE | {"called": f"s{n}"} for n in range(501)]}, "at most 500"),
        (report(called="<script>"), "calls[0].called:"),
        (report(calls=-1), "calls[0].calls:"),
        (report(calls=True), "calls[0].calls:"),
        (report(calls=10**12), "calls[0].calls:"),
        (report(failures=11), "calls[0].failures:"),
        (report(milliseconds="1"), "calls[0].milliseconds:"),
        (report(slowest_ms=float("nan")), "calls[0].slowest_ms:"),
        (report(slowest_ms=float("inf")), "calls[0].slowest_ms:"),
        (report(more=1), "calls[0]:"),
    ],
)
def test_what_is_no_report_is_refused_with_its_field(body, said):
    response = post(body)
    assert response.status_code == 400
    assert said in response.json()["error"]
    assert not CallCount.objects.exists()


def test_a_huge_body_is_not_read():
    assert post(b" " * 200_000).status_code == 413


def test_reports_at_once_lose_nothing():
    def many() -> None:
        try:
            for _ in range(20):
                assert post({"caller": "a", "calls": [ONE, ONE | {"called": "other"}]}).status_code == 204
        finally:
            connection.close()

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(CallCount.objects.values_list("calls", flat=True)) == {800}


def test_the_map_shows_pairs_and_who_is_in_none(operator):
    mirrored.declare("backend-api")
    mirrored.declare("lonely", first_port=8100)
    mirrored.fail("backend-api-127.0.0.1-8000")
    mirrored.look()
    assert b"No calls are known" in operator.get("/map/").content
    post(report())
    text = operator.get("/map/").content.decode()
    assert '<a href="/services/research-api/">research-api</a>' in text
    drawing = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    assert drawing["nodes"] == [
        {"name": "backend-api", "health": "critical"}, {"name": "research-api", "health": "unknown"},
    ]  # fmt: skip
    assert [(edge["from"], edge["to"], edge["failing"]) for edge in drawing["edges"]] == [
        ("research-api", "backend-api", True)
    ]
    assert "10.0 %" in text
    assert "lonely" in text.partition("in no known call")[2]
    assert operator.get("/map/?window=7d&sort=-mean").status_code == 200
    assert operator.get("/map/?window=x&sort=password").status_code == 200


def test_an_open_map_is_drawn_anew_when_calls_were_reported(operator):
    mirrored.look()
    live = {"X-Registry-Live": "1"}
    etag = operator.get("/map/", headers=live)["ETag"]
    assert operator.get("/map/", headers=live | {"If-None-Match": etag}).status_code == 304
    post(report())
    assert operator.get("/map/", headers=live | {"If-None-Match": etag}).status_code == 200
