"""The self-check of a process: what it meets at its address, and what it advises."""

from __future__ import annotations

import threading

import pytest

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec
from registry_admin.discovery import own_instances
from registry_admin.discovery.registration.self_check import SelfCheckStatus, run_self_check
from tests.parts import refusing_port


def spec_of(port: int, **options: object) -> ServiceSpec:
    return ServiceSpec(name="api", address="127.0.0.1", port=port, check=CheckSpec(**options))


@pytest.mark.parametrize(
    ("status", "expected", "advice"),
    [
        (200, SelfCheckStatus.HEALTHY, ""),
        (429, SelfCheckStatus.WARNING, ""),
        (400, SelfCheckStatus.UNHEALTHY, "Allow the Host 127.0.0.1, in Django by ALLOWED_HOSTS."),
        (401, SelfCheckStatus.UNHEALTHY, "Let this path be requested without a login"),
        (404, SelfCheckStatus.UNHEALTHY, "Add this route, or set SERVICE_HEALTH_CHECK_PATH"),
        (503, SelfCheckStatus.UNHEALTHY, "The check passes with a status from 200 to 299."),
    ],
)
def test_self_check_of_http_says_who_answered_what(http_service, status, expected, advice):
    service = http_service(status=status)
    check = run_self_check(spec_of(service.port, path="/up"))
    assert check.status is expected
    assert advice in check.text
    if not check.is_serving:
        assert f"GET {service.url}/up: answered with status {status}." in check.text


@pytest.mark.network
@pytest.mark.parametrize("kind", [CheckKind.HTTP, CheckKind.TCP])
def test_self_check_where_nothing_listens_says_where_to_listen(kind):
    port = refusing_port()
    check = run_self_check(spec_of(port, kind=kind))
    assert check.status is SelfCheckStatus.NOT_LISTENING
    assert f"Let the server listen on 127.0.0.1 (or on all addresses: 0.0.0.0) and port {port}" in check.text


def test_self_check_slower_than_its_time_out_names_it(http_service):
    service = http_service(answer=lambda handler, request: threading.Event().wait(0.5))
    check = run_self_check(spec_of(service.port, timeout="100ms"))
    assert check.status is SelfCheckStatus.UNHEALTHY
    assert "within the check's time-out, 0.1s" in check.text


def test_self_check_answered_by_another_instance_names_it(http_service, monkeypatch):
    monkeypatch.setattr(own_instances, "_has_middleware", True)
    monkeypatch.setattr(own_instances, "_ids_by_place", {})

    def answer(handler, request):
        is_call = own_instances.HEADER in request.headers
        service.status = 421 if is_call else 200
        service.headers = {own_instances.HEADER: answering} if is_call else {}
        service.plain_answer(handler, request)

    service = http_service(answer=answer)
    spec = spec_of(service.port)
    own_instances.serve_as(spec.id, spec.address, spec.port)
    answering = "orders%0A1"
    check = run_self_check(spec)
    assert check.status is SelfCheckStatus.FOREIGN
    assert f"127.0.0.1:{service.port} is answered by orders 1." in check.text
    monkeypatch.setenv("SERVICE_VERIFY_ADDRESS", "0")
    assert run_self_check(spec).status is SelfCheckStatus.HEALTHY
    monkeypatch.delenv("SERVICE_VERIFY_ADDRESS")
    answering = spec.id
    assert run_self_check(spec).status is SelfCheckStatus.HEALTHY
