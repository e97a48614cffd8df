"""Fake services: unit tests of calling code, with the real clients, without Consul and without sockets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from django.core.handlers.wsgi import WSGIHandler
from fastapi import FastAPI, HTTPException

from registry_admin.discovery import ServiceDiscoveryClient, SyncServiceDiscoveryClient, call_service, requests_adapter
from registry_admin.discovery.testing import FakeRequest, FakeResponse, Unhealthy, Unreachable, fake_services
from registry_admin.errors import CallFailedError, InvalidValueError, NoHealthyInstanceError, NoSuchServiceError

ROOT = Path(__file__).resolve().parent.parent.parent
Call = Callable[..., requests.Response]


@pytest.fixture(params=["sync", "async", "adapter", "sync within a loop"])
def call(request: pytest.FixtureRequest) -> Call:
    """`call(service, path, method=…)` by each kind of client."""

    def by_session(service: str, path: str = "/", *, method: str = "GET", **options: Any) -> requests.Response:
        with requests.Session() as session:
            session.mount("http://", requests_adapter())
            try:
                return session.request(method, f"http://{service}.service{path}", **options)
            except requests.RequestException as error:
                raise error.__cause__ or error  # noqa: B904 - keeps its own cause

    async def within_a_loop(*args: Any, **options: Any) -> requests.Response:
        return SyncServiceDiscoveryClient().call_service(*args, **options)

    return {
        "sync": call_service,
        "async": lambda *args, **options: asyncio.run(ServiceDiscoveryClient().call_service(*args, **options)),
        "adapter": by_session,
        "sync within a loop": lambda *args, **options: asyncio.run(within_a_loop(*args, **options)),
    }[request.param]


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post("/publish/{number}")
    async def publish(number: int, card: dict[str, Any], q: str = "") -> dict[str, Any]:
        await asyncio.sleep(0)
        if number == 404:
            raise HTTPException(404, "no such card")
        return {"number": number, "title": card["title"], "q": q}

    return app


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("201 Created", [("Content-Type", "application/json"), ("X-Twice", "1"), ("X-Twice", "2")])
    keys = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_X_OWN", "CONTENT_TYPE")
    return [json.dumps({key: environ.get(key) for key in keys} | {"body": body.decode()}).encode()]


def test_fastapi_application_answers_calls(call):
    with fake_services({"backend-api": fastapi_app()}):
        response = call("backend-api", "/publish/7?q=a%20b", method="POST", json={"title": "Test"})
        missing = call("backend-api", "/publish/404", method="POST", json={"title": "Test"})
    assert (response.status_code, response.json()) == (200, {"number": 7, "title": "Test", "q": "a b"})
    assert (missing.status_code, missing.json()) == (404, {"detail": "no such card"})


def test_wsgi_application_answers_calls(call):
    with fake_services({"backend-api": wsgi_app}):
        response = call("backend-api", "/a%20b?q=1", method="PUT", json={"a": 1}, headers={"X-Own": "yes"})
    assert (response.status_code, response.headers["X-Twice"]) == (201, "1, 2")
    received = response.json()
    assert json.loads(received.pop("body")) == {"a": 1}
    assert received == {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "q=1",
        "HTTP_X_OWN": "yes",
        "CONTENT_TYPE": "application/json",
    }


@pytest.mark.django_db
def test_django_application_sees_the_database_of_the_test(settings, make_user):
    settings.ALLOWED_HOSTS = ["testserver"]
    make_user(name="grace")
    with fake_services({"registry-admin": WSGIHandler()}):
        assert call_service("registry-admin", "/health").status_code == 200
        refused = call_service("registry-admin", "/admin/login/", method="POST", data={"username": "grace"})
    assert refused.status_code == 403


@pytest.mark.system
def test_fixture_fakes_services_until_the_test_ends(tmp_path):
    module = tmp_path / "test_calls.py"
    module.write_text(
        "from registry_admin.discovery import call_service\n\n"
        "def test_call(fake_services):\n"
        "    fake_services({'api': lambda request: {'path': request.path}})\n"
        "    assert call_service('api', '/x').json() == {'path': '/x'}\n"
    )
    plugins = ["-p", "registry_admin.discovery.pytest_plugin", "-p", "no:django", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, str(module)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    output = subprocess.run(
        command, check=True, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, timeout=60
    ).stdout
    assert "1 passed" in output


@pytest.mark.parametrize(
    ("result", "status", "text"),
    [
        ({"a": 1}, 200, '{"a": 1}'),
        ("grüße", 200, "grüße"),
        (b"raw", 200, "raw"),
        (FakeResponse(body={"detail": "no"}, status=409, headers={"X-A": "b"}), 409, '{"detail": "no"}'),
    ],
)
def test_function_answers_with_what_it_returns(call, result, status, text):
    received: list[FakeRequest] = []

    def handler(request: FakeRequest) -> Any:
        received.append(request)
        return result

    with fake_services({"api": handler}):
        response = call("api", "/a?b=c", method="POST", json={"x": 1})
    assert (response.status_code, response.text) == (status, text)
    (request,) = received
    assert (request.service, request.method, request.path, request.query, request.json) == (
        "api", "POST", "/a", "b=c", {"x": 1},
    )  # fmt: skip
    assert request.headers["x-request-timeout-ms"]


def test_coroutine_function_answers(call):
    async def handler(request: FakeRequest) -> Any:
        await asyncio.sleep(0)
        return {"path": request.path}

    with fake_services({"api": handler}):
        assert call("api", "/x").json() == {"path": "/x"}
        assert call("api", "/x", method="HEAD").content == b""


def test_call_to_a_service_without_a_fake_lists_those_that_there_are(call):
    with fake_services({"api": lambda _request: "", "web": lambda _request: ""}):
        with pytest.raises(NoSuchServiceError, match="There are: api, web"):
            call("backend-api")
        assert call("web").status_code == 200


def test_fake_may_refuse_connections_or_have_no_healthy_instance(call):
    with fake_services({"api": Unreachable(), "web": Unhealthy()}):
        with pytest.raises(CallFailedError, match="refused"):
            call("api")
        with pytest.raises(NoHealthyInstanceError, match="critical"):
            call("web")


def test_error_of_a_fake_reaches_the_test(call):
    def handler(_request: FakeRequest) -> Any:
        raise AssertionError("this must not be called")

    with fake_services({"api": handler}), pytest.raises(AssertionError, match="must not be called"):
        call("api")


def test_fakes_end_with_their_block():
    client = SyncServiceDiscoveryClient()
    with fake_services({"api": lambda _request: "outer"}):
        with fake_services({"api": lambda _request: "inner"}):
            assert client.get("api").text == "inner"
        assert client.get("api").text == "outer"


def test_pick_hands_out_the_fake():
    client = SyncServiceDiscoveryClient()
    with fake_services({"postgres": "http://127.0.0.1:5432"}), client.pick("postgres") as instance:
        assert (instance.address, instance.port) == ("127.0.0.1", 5432)


@responses.activate
def test_url_is_called_where_responses_can_answer():
    responses.get("http://backend.test/cards", json=[1, 2])
    with fake_services({"backend-api": "http://backend.test"}):
        assert call_service("backend-api", "/cards").json() == [1, 2]


@pytest.mark.parametrize(
    "fake", ["backend.test", "ftp://backend.test", "http://a/b", 7, lambda: "", lambda a, b, c, d: ""]
)
def test_fake_of_another_kind_is_refused_by_its_name(fake):
    with pytest.raises(InvalidValueError, match=r"^api: "), fake_services({"api": fake}):
        pass
