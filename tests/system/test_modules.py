"""The two modules of the repository, as a user meets them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.parts import wait_until

if TYPE_CHECKING:
    from tests.system.servers import Server

pytest_plugins = ["tests.system.servers"]  # `serve` and `listening_consul`


@pytest.fixture
def backend(serve: Callable[..., Server]) -> Callable[[], Server]:
    """`backend()`: another backend-api instance, ready to be called."""

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


def test_a_card_is_enriched_by_one_module_and_published_by_another(backend, research):
    backends = [backend(), backend()]
    answers = [enrich(research).json() for _ in range(4)]
    assert {answer["served_by"] for answer in answers} == {server.service_id for server in backends}
    card = answers[0]["card"]
    assert (card["title"], card["enriched"]["words"], card["enriched"]["by"]) == ("Test it", 2, "research-api")
    kept = [found for server in backends for found in requests.get(f"{server.url}/cards", timeout=5).json()]
    assert card in kept
    assert len(kept) == 4


def test_a_killed_backend_costs_no_card(backend, research):
    doomed, other = backend(), backend()
    for _ in range(4):
        enrich(research)
    os.kill(doomed.process.pid, signal.SIGKILL)
    answers = [enrich(research) for _ in range(100)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["served_by"] for answer in answers[1:]} == {other.service_id}


def test_without_a_backend_the_answer_says_why(research):
    answer = enrich(research)
    assert answer.status_code == 503
    assert "backend-api" in answer.json()["error"]
    assert "Traceback" not in answer.text


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


def test_what_cannot_be_enriched_is_refused(research, subtests):
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


def test_what_can_be_published(backend, subtests):
    server = backend()
    for options, status in SENT_TO_BACKEND:
        with subtests.test(str(options)[:40]):
            answer = requests.post(f"{server.url}/publish", timeout=30, **options)
            assert answer.status_code == status
            assert answer.json()["title"] == "x" if status == 201 else answer.json()["detail"]


def test_a_card_sent_again_with_its_key_stays_one_card(backend):
    server = backend()
    headers = {"Idempotency-Key": "4711"}
    sent = [requests.post(f"{server.url}/publish", json={"n": n}, headers=headers, timeout=5).json() for n in range(2)]
    assert sent[0] == sent[1]
    assert requests.get(f"{server.url}/cards", timeout=5).json() == sent[:1]
