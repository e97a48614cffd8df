"""What holds for every address of the API: problems, methods, parameters, ETags, and who gets in."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_admin.api import operations
from registry_admin.api.tokens import make_token
from registry_admin.api.urls import document
from tests.parts import mirrored

pytestmark = pytest.mark.django_db

PATHS = ["status", "services", "services/api", "instances"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def client() -> Client:
    """A client with a token, of a site with a service."""
    mirrored.look()
    mirrored.declare("api")
    _, token = make_token("tests", days=1, now=timezone.now())
    return Client(headers={"Authorization": f"Bearer {token}"}, raise_request_exception=False)


def problem(response, status: int) -> dict[str, object]:
    """Returns a problem document, once it is one."""
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"].endswith(".")
    assert body["request_id"] == response["X-Request-ID"]
    return body


def test_document_in_the_docs_is_current():
    saved = json.loads((ROOT / "docs" / "reference" / "openapi.json").read_text())
    assert saved == json.loads(json.dumps(document())), "manage.py api_document > docs/reference/openapi.json"


def test_document_is_served_to_everybody_and_names_each_address():
    served = Client().get("/api/v1/openapi.json").json()
    assert served["openapi"].startswith("3.1")
    assert set(served["paths"]) == {f"/api/v1/{path.replace('/api', '/{name}')}" for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_request_without_a_token_is_401_before_any_query(path, django_assert_num_queries):
    with django_assert_num_queries(0):
        response = Client().get(f"/api/v1/{path}?nonsense=1")
    body = problem(response, 401)
    assert "api_token make" in str(body["detail"])
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer rat_0.x", "Bearer \xff\xfe"])
def test_header_that_is_no_token_is_401(authorization):
    problem(Client().get("/api/v1/services", headers={"Authorization": authorization}), 401)


def test_session_of_a_person_counts_for_nothing(make_user, client_of):
    browser = client_of(make_user(name="root", superuser=True))
    assert browser.get("/").status_code == 200
    problem(browser.get("/api/v1/services"), 401)


@pytest.mark.parametrize("path", PATHS)
def test_parameter_that_there_is_not_is_422_and_named(client, path):
    for query in ("nonsense=1", "page=2", "Health=passing"):
        body = problem(client.get(f"/api/v1/{path}?{query}"), 422)
        assert body["errors"][0]["field"] == query.partition("=")[0]
        assert "leave it out" in body["errors"][0]["detail"]


@pytest.mark.parametrize("path", ["services", "instances"])
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), (f"limit={'9' * 5000}", "limit"),
        ("health=ill", "health"), ("sync=maybe", "sync"), ("fields=name,secret", "fields"), ("fields=,", "fields"),
        ("cursor=x", "cursor"), ("cursor=%ff", "cursor"), ("cursor=W10", "cursor"),
        ("health=passing&health=critical", "health"),
    ],
)  # fmt: skip
def test_wrong_parameter_is_422_and_named(client, path, query, field):
    body = problem(client.get(f"/api/v1/{path}?{query}"), 422)
    assert [error["field"] for error in body["errors"]] == [field]


def test_cursor_of_another_filter_is_refused(client):
    mirrored.declare("web", first_port=9100)
    cursor = client.get("/api/v1/services?limit=1").json()["next"]
    assert client.get("/api/v1/services", {"limit": 1, "cursor": cursor}).status_code == 200
    for path, query in (("services", {"owner": "blue"}), ("instances", {})):
        problem(client.get(f"/api/v1/{path}", {"cursor": cursor, **query}), 422)


@pytest.mark.parametrize("path", [*PATHS, "openapi.json"])
def test_method_that_writes_is_405_and_changes_nothing(client, path):
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = client.generic(method, f"/api/v1/{path}", "{}", content_type="application/json")
        problem(response, 405)
        assert "GET" in response["Allow"]
    assert client.get("/api/v1/services/api").status_code == 200


@pytest.mark.parametrize("path", ["nothing", "services/api/x", "services/", "../v2/services", "docs", "%2e%2e"])
def test_address_that_there_is_not_is_a_problem(client, path):
    problem(client.get(f"/api/v1/{path}"), 404)


@pytest.mark.parametrize("path", [*PATHS, "openapi.json"])
def test_head_answers_like_get_without_a_body(client, path):
    read, head = client.get(f"/api/v1/{path}"), client.head(f"/api/v1/{path}")
    assert (head.status_code, head["ETag"], head.content) == (200, read["ETag"], b"")


@pytest.mark.parametrize("path", PATHS)
def test_etag_saves_a_body_until_something_changes(client, path):
    first = client.get(f"/api/v1/{path}")
    assert first["Cache-Control"] == "private, no-cache"
    again = client.get(f"/api/v1/{path}", headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    mirrored.fail("api-127.0.0.1-8000")
    mirrored.observe("another", "api")
    assert client.get(f"/api/v1/{path}", headers={"If-None-Match": first["ETag"]}).status_code == 200


def test_etag_is_no_oracle_for_strangers(client):
    etag = client.get("/api/v1/services")["ETag"]
    problem(Client().get("/api/v1/services", headers={"If-None-Match": etag}), 401)


@pytest.mark.parametrize("address", ["services/%00", "services?q=%00", "services?owner=a%00b", "instances?%00=1"])
def test_nul_character_is_400(client, address):
    problem(client.get(f"/api/v1/{address}"), 400)


def test_body_that_is_too_large_is_413(client):
    response = client.generic("GET", "/api/v1/services", b"", CONTENT_LENGTH="99999999")
    problem(response, 413)


@pytest.mark.parametrize(("error", "status"), [(OperationalError("away at 10.0.0.1"), 503), (RuntimeError("x"), 500)])
def test_fault_is_a_problem_that_tells_nothing_of_the_inside(client, monkeypatch, error, status):
    def fail(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(operations, "instances_after", fail)
    body = problem(client.get("/api/v1/instances"), status)
    assert str(error) not in str(body["detail"])


def test_error_of_another_page_stays_a_page(client_of, make_user):
    response = client_of(make_user(name="root", superuser=True)).get("/nothing-of-this-name/")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")


PARAMETERS = ["q", "owner", "service", "health", "sync", "kind", "limit", "cursor", "fields", "x"]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(PARAMETERS), st.text(max_size=20), max_size=3))
def test_no_parameter_makes_the_site_fail(client, path, query):
    text = "&".join(f"{name}={quote(value, errors='surrogatepass')}" for name, value in query.items())
    assert client.get(f"/api/v1/{path}?{text}").status_code in (200, 400, 422, 429)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=20))
def test_no_name_makes_the_site_fail(client, name):
    path = f"/api/v1/services/{quote(name, safe='', errors='surrogatepass')}"
    assert client.get(path).status_code in (200, 400, 404, 429)
