"""Modules that are told to register another service's address: real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parts import HttpService, free_port, wait_until
from tests.parts.servers import Server

pytestmark = pytest.mark.system

MODULE = """
from fastapi import FastAPI
from registry_admin.discovery import lifespan
from registry_admin.discovery.asgi import PropagateContext

app = FastAPI(lifespan=lifespan())
app.add_middleware(PropagateContext)

@app.get("/health")
def health():
    return "ok"

api = FastAPI()
api.add_middleware(PropagateContext)
parts = FastAPI(lifespan=lifespan())
parts.mount("/api", api)

@parts.get("/health")
def health_of_parts():
    return "ok"
"""


@pytest.fixture
def module(serve: Callable[..., Server], tmp_path: Path) -> Callable[..., Server]:
    """`module(port=…, serving_port=…)`: starts a module that registers one port and serves on another."""

    def start(*, port: int, serving_port: int, name: str = "prices", app: str = "app") -> Server:
        (tmp_path / "module.py").write_text(MODULE)
        arguments = ["uvicorn", "--app-dir", str(tmp_path), "--port", str(serving_port), f"module:{app}"]
        return serve(*arguments, name=name, port=port)

    return start


def test_module_that_serves_on_another_port_is_not_registered_at_the_address_of_a_service(
    module, http_service: Callable[..., HttpService]
):
    other = http_service()
    server = module(port=other.port, serving_port=free_port())
    wait_until(lambda: "is answered by another process" in server.log.read_text(), 30, "a line in the log")
    count = len(other.requests)
    wait_until(lambda: len(other.requests) > count + 2, 30, "further self-checks")
    assert not server.is_registered()
    assert server.log.read_text().count("is not registered while another service has its address") == 1
    assert "Set SERVICE_ADDRESS and SERVICE_PORT to where this process listens" in server.log.read_text()


def test_module_that_serves_on_another_port_names_the_module_that_has_its_address(module):
    port = free_port()
    orders = module(port=port, serving_port=port, name="orders")
    wait_until(orders.is_registered, 30, "the registration")
    server = module(port=port, serving_port=free_port())
    wait_until(lambda: f"is answered by {orders.service_id}" in server.log.read_text(), 30, "a line in the log")
    assert not server.is_registered()


def test_module_with_middleware_around_a_part_of_it_is_registered(module):
    port = free_port()
    server = module(port=port, serving_port=port, app="parts")
    wait_until(server.is_registered, 30, "the registration")
