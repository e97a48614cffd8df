"""Calls to an instance whose address another service has got: real processes, killed and replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry_admin.consul import ServiceRegistry
from registry_admin.discovery.instances import registry_cache
from registry_admin.errors import CallFailedError, Outcome
from tests.parts import ConsulAgent, wait_until
from tests.parts.any_client import AnyClient
from tests.parts.servers import Server

pytestmark = pytest.mark.system

FASTAPI = """
import os
from fastapi import FastAPI
from registry_admin.discovery import lifespan
from registry_admin.discovery.asgi import PropagateContext

app = FastAPI(lifespan=lifespan())
app.add_middleware(PropagateContext)

@app.api_route("/{path:path}", methods=["GET", "POST"])
def answer(path: str):
    return os.environ["SERVICE_NAME"]
"""
WSGI = """
import os
from registry_admin.discovery import Registration
from registry_admin.discovery.wsgi import WSGIPropagateContext

registration = Registration().start()

@WSGIPropagateContext
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'"' + os.environ["SERVICE_NAME"].encode() + b'"']
"""
DJANGO = """
import os
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import re_path

settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["registry_admin.autoregister"],
    MIDDLEWARE=["registry_admin.autoregister.middleware.propagate_context"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="a" * 50,
)
urlpatterns = [re_path("", lambda request: JsonResponse(os.environ["SERVICE_NAME"], safe=False))]
app = get_wsgi_application()
"""
MODULES = {"fastapi": FASTAPI, "wsgi": WSGI, "django": DJANGO}


@pytest.fixture
def module(serve: Callable[..., Server], tmp_path: Path) -> Callable[..., Server]:
    """`module("prices", kind="django", port=…)`: starts a module that answers with its service's name."""

    def start(name: str, *, kind: str = "fastapi", port: int = 0) -> Server:
        (tmp_path / f"{kind}_module.py").write_text(MODULES[kind])
        worker = ["-k", "uvicorn_worker.UvicornWorker"] if kind == "fastapi" else []
        bind = ["-b", "127.0.0.1:{port}", "--chdir", str(tmp_path), "--no-control-socket"]
        server = serve("gunicorn", *bind, *worker, f"{kind}_module:app", name=name, port=port)
        wait_until(server.is_registered, 30, f"the registration of {name}")
        return server

    return start


@pytest.fixture
def make_clients(consul_agent: ConsulAgent) -> Iterator[Callable[[], list[AnyClient]]]:
    """`make_clients()`: one of each kind; none knows what another one has learnt."""
    with ExitStack() as stack:

        def make() -> list[AnyClient]:
            clients = []
            for kind in ("sync", "async", "adapter"):
                registry_cache.clear()
                clients.append(AnyClient(kind, ServiceRegistry(config=consul_agent.config)))
                stack.callback(clients[-1].close)
            return clients

        yield make


@pytest.mark.parametrize("kind", MODULES)
def test_call_to_a_recycled_address_is_refused_and_answered_by_another_instance(module, make_clients, kind):
    killed = module("prices", kind=kind)
    for pid in (killed.process.pid, *killed.workers()):
        os.kill(pid, signal.SIGKILL)
    killed.process.wait()
    orders = module("orders", kind=kind, port=int(killed.url.rpartition(":")[2]))
    assert killed.is_registered(), "Consul takes the one for the other"
    for client in make_clients():
        with pytest.raises(CallFailedError, match=f"{orders.service_id} answers at its address") as failure:
            client.post("prices", "/today")
        assert {attempt.outcome for attempt in failure.value.attempts} == {Outcome.NOT_SENT}
        assert client.get("orders", "/today").json() == "orders"
    module("prices", kind=kind)
    for client in make_clients():
        answers = [client.call_service("prices", "/today", method=method) for method in ("POST", "GET") * 10]
        assert {answer.json() for answer in answers} == {"prices"}
        (ejected,) = (instance for instance in client.explain("prices").instances if instance.id == killed.service_id)
        assert "answers at its address" in ejected.reason
