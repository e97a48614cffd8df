"""The example modules backend-api and research-api, as real processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.parts import ConsulAgent, HttpService, wait_until
from tests.parts.servers import Server

pytestmark = pytest.mark.system


@pytest.fixture
def backend(serve: Callable[..., Server]) -> Callable[[], Server]:
    """`backend()`: starts another instance of backend-api."""

    def start() -> Server:
        server = serve("uvicorn", "--port", "{port}", "backend_stub.main:app", name="backend-api")
        wait_until(server.is_registered, 30, "the backend's registration")
        return server

    return start


@pytest.fixture
def research(serve: Callable[..., Server]) -> Server:
    server = serve(
        "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", "research_stub.main:application",
        name="research-api",
    )  # fmt: skip
    wait_until(server.is_registered, 30, "the research module's registration")
    return server


def enrich(server: Server, **options: Any) -> requests.Response:
    options = options or {"json": {"title": "Test it"}}
    return requests.post(f"{server.url}/enrich", timeout=30, **options)


def test_enrich_card_is_published_by_the_backends_in_turn(backend, research):
    backends = [backend(), backend()]
    answers = [enrich(research).json() for _ in range(4)]
    assert {answer["served_by"] for answer in answers} == {server.service_id for server in backends}
    card = answers[0]["card"]
    assert (card["title"], card["enriched"]["words"], card["enriched"]["by"]) == ("Test it", 2, "research-api")
    published = [item for server in backends for item in requests.get(f"{server.url}/cards", timeout=5).json()]
    assert card in published
    assert len(published) == 4


def test_enrich_killed_backend_loses_no_card(backend, research):
    doomed, other = backend(), backend()
    for _ in range(4):
        enrich(research)
    os.kill(doomed.process.pid, signal.SIGKILL)
    answers = [enrich(research) for _ in range(100)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["served_by"] for answer in answers[1:]} == {other.service_id}


def test_enrich_without_a_backend_is_503_with_the_reason(research):
    answer = enrich(research)
    assert answer.status_code == 503
    assert "backend-api" in answer.json()["error"]
    assert "Traceback" not in answer.text


# -- propagation of IDs, traces and deadlines --------------------------------------------------------------------------

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CARRIED = {
    "X-Request-ID": "card-7",
    "X-Request-Timeout-Ms": "8000",  # less than calls have by default
    "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
}
FRONT = """
from fastapi import FastAPI
from registry_admin.discovery import acall_service
from registry_admin.discovery.asgi import PropagateContext

app = FastAPI()
app.add_middleware(PropagateContext)

@app.get("/health")
async def health():
    return "ok"

@app.post("/enrich")
async def enrich():
    return (await acall_service("research-api", "/enrich", method="POST", json={"title": "x"})).json()
"""


@pytest.fixture
def front(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A third module, which calls research-api with the asynchronous client."""
    (tmp_path / "front.py").write_text(FRONT)
    server = serve("uvicorn", "--port", "{port}", "--app-dir", str(tmp_path), "front:app", name="front")
    wait_until(server.answers, 30, "an answer")
    return server


@pytest.fixture
def recorder(http_service: Callable[..., HttpService], consul_agent: ConsulAgent) -> HttpService:
    """A service in place of backend-api that records its requests."""
    service = http_service(body=b'{"served_by": "recorder"}')
    instance = {"Name": "backend-api", "Address": service.host, "Port": service.port}
    consul_agent.request("PUT", "/v1/agent/service/register", body=instance)
    return service


def test_request_id_trace_and_deadline_are_propagated_through_two_modules(front, research, recorder):
    answer = enrich(front, headers=CARRIED)
    assert answer.json()["served_by"] == "recorder"
    (received,) = recorder.requests
    assert received.headers["X-Request-ID"] == "card-7"
    assert received.headers["tracestate"] == "vendor=1"
    assert received.headers["traceparent"] == CARRIED["traceparent"]
    assert 0 < int(received.headers["X-Request-Timeout-Ms"]) < 8000


def test_enrich_deadline_of_the_request_ends_the_call(research, recorder):
    released = threading.Event()
    recorder.answer = lambda handler, request: (released.wait(30), recorder.plain_answer(handler, request))
    answer = enrich(research, json={"title": "x"}, headers={"X-Request-Timeout-Ms": "300"})
    released.set()
    assert answer.status_code == 504


def test_enrich_request_without_headers_gets_an_id_and_no_trace(research, recorder):
    sent = [enrich(research) for _ in range(2)]
    assert {answer.status_code for answer in sent} == {200}
    first, second = (request.headers for request in recorder.requests)
    assert first["X-Request-ID"] != second["X-Request-ID"]
    assert "traceparent" not in first


# -- refused requests --------------------------------------------------------------------------------------------------

REFUSED_BY_RESEARCH = [
    ({"data": "{nonsense"}, 400),
    ({"data": "[" * 100_000}, 413),
    ({"data": "[" * 50_000}, 400),
    ({"json": []}, 400),
    ({"json": {}}, 400),
    ({"data": b"\xff\xfe"}, 400),
    ({"data": '{"title": NaN}'}, 400),
    ({"data": b" " * 70_000}, 413),
]


def test_enrich_invalid_body_is_refused(research, subtests):
    for options, status in REFUSED_BY_RESEARCH:
        with subtests.test(str(options)[:40]):
            answer = enrich(research, **options)
            assert answer.status_code == status
            assert answer.json()["error"]


SENT_TO_BACKEND = [
    ({"json": {"title": "x"}}, 201),
    ({"data": {"title": "x"}}, 201),
    ({"files": {"title": (None, "x")}}, 201),
    ({}, 422),
    ({"json": ["x"]}, 422),
    ({"json": {}}, 422),
    ({"data": "{nonsense"}, 422),
    ({"data": '{"title": NaN}'}, 422),
    ({"data": '{"title": "\\ud800"}'}, 422),
    ({"data": "[" * 50_000}, 422),
    ({"data": b" " * 70_000}, 413),
    ({"files": {"title": ("a.txt", b"x")}}, 422),
]


def test_publish_body_is_accepted_or_refused(backend, subtests):
    server = backend()
    for options, status in SENT_TO_BACKEND:
        with subtests.test(str(options)[:40]):
            answer = requests.post(f"{server.url}/publish", timeout=30, **options)
            assert answer.status_code == status
            assert answer.json()["title"] == "x" if status == 201 else answer.json()["detail"]


def test_publish_repeated_idempotency_key_stays_one_card(backend):
    server = backend()
    headers = {"Idempotency-Key": "4711"}
    sent = [requests.post(f"{server.url}/publish", json={"n": n}, headers=headers, timeout=5).json() for n in range(2)]
    assert sent[0] == sent[1]
    assert requests.get(f"{server.url}/cards", timeout=5).json() == sent[:1]
