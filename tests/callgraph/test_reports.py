"""Reports of calls between services, and the map of services."""

from __future__ import annotations

import json
import threading

import pytest
from django.db import connection
from django.test import Client

from registry_admin.callgraph.models import CallCount
from tests.parts import mirrored

pytestmark = pytest.mark.django_db(transaction=True)

TOKEN = "a token for tests"
CALLS = {"called": "backend-api", "calls": 10, "failures": 1, "milliseconds": 100.0, "slowest_ms": 40.0}


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
    return {"caller": "research-api", "calls": [CALLS | changes]}


def test_reports_of_one_pair_are_summed():
    assert post(report()).status_code == 204
    assert post(report(calls=5, failures=0, slowest_ms=90)).status_code == 204
    row = CallCount.objects.get()
    assert (row.caller, row.called, row.calls, row.failures) == ("research-api", "backend-api", 15, 1)
    assert (row.milliseconds, row.slowest_ms) == (200.0, 90.0)
    assert (row.at.minute % 5, row.at.second) == (0, 0)


def test_report_without_valid_token_is_refused(settings):
    assert post(report(), token="").status_code == 401
    assert post(report(), token="wrong").status_code == 401
    assert post(report(), token="\N{SNOWMAN}".encode().decode("latin-1")).status_code == 401
    settings.REGISTRY_REPORT_TOKEN = ""
    assert post(report(), token="").status_code == 401
    assert post(report()).status_code == 401
    assert not CallCount.objects.exists()
    settings.REGISTRY_REPORT_TOKEN = TOKEN
    assert post(report()).status_code == 204


def test_report_by_plain_http_is_not_redirected(settings):
    settings.SECURE_SSL_REDIRECT = True
    assert post(report()).status_code == 204
    assert CallCount.objects.get().called == "backend-api"


def test_report_by_get_is_refused(operator):
    assert operator.get("/api/calls").status_code == 405


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[" * 50_000, "no JSON"),
        (b"\xff", "no JSON"),
        ([], "just 'caller' and 'calls'"),
        ({"caller": "a"}, "just 'caller' and 'calls'"),
        ({"caller": "a/b", "calls": []}, "caller:"),
        ({"caller": 1, "calls": []}, "caller:"),
        ({"caller": "a", "calls": {}}, "calls:"),
        ({"caller": "a", "calls": [CALLS] * 2}, "calls: name each called service once"),
        ({"caller": "a", "calls": [CALLS | {"called": f"s{n}"} for n in range(501)]}, "at most 500"),
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
def test_invalid_report_is_refused_with_its_field(body, expected):
    response = post(body)
    assert response.status_code == 400
    assert expected in response.json()["error"]
    assert not CallCount.objects.exists()


def test_report_with_huge_body_is_413():
    assert post(b" " * 200_000).status_code == 413


def test_concurrent_reports_are_all_counted():
    def post_reports() -> None:
        try:
            for _ in range(20):
                assert post({"caller": "a", "calls": [CALLS, CALLS | {"called": "other"}]}).status_code == 204
        finally:
            connection.close()

    threads = [threading.Thread(target=post_reports) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(CallCount.objects.values_list("calls", flat=True)) == {800}


def test_map_shows_pairs_and_services_without_calls(operator):
    mirrored.declare("backend-api")
    mirrored.declare("uncalled", first_port=8100)
    mirrored.fail("backend-api-127.0.0.1-8000")
    mirrored.look()
    assert b"No calls are known" in operator.get("/map/").content
    post(report())
    text = operator.get("/map/").content.decode()
    assert '<a href="/services/research-api/">research-api</a>' in text
    drawing = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    assert drawing["nodes"] == [
        {"name": name, "url": f"/services/{name}/", "health": health, "colour": colour, "symbol": symbol}
        for name, health, colour, symbol in (
            ("backend-api", "critical", "red", "■"),
            ("research-api", "unknown", "grey", "○"),
        )
    ]
    assert [(edge["from"], edge["to"], edge["failing"]) for edge in drawing["edges"]] == [
        ("research-api", "backend-api", True)
    ]
    assert "10.0 %" in text
    assert "uncalled" in text.partition("in no known call")[2]
    assert operator.get("/map/?window=7d&sort=-mean").status_code == 200
    assert operator.get("/map/?window=x&sort=password").status_code == 200


def test_map_poll_after_report_returns_new_page(operator):
    mirrored.look()
    live = {"X-Registry-Live": "1"}
    etag = operator.get("/map/", headers=live)["ETag"]
    assert operator.get("/map/", headers=live | {"If-None-Match": etag}).status_code == 304
    post(report())
    assert operator.get("/map/", headers=live | {"If-None-Match": etag}).status_code == 200
