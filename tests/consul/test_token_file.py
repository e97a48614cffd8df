"""Tokens in files: read anew when the file changes, and at once when Consul refuses one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from registry_admin.consul import ConsulApi, ConsulConfig, ServiceRegistry, ServiceSpec
from registry_admin.consul.checks import CheckKind, CheckSpec
from registry_admin.consul.token_file import TokenFile
from registry_admin.discovery import Registration
from registry_admin.errors import ConsulPermissionError
from tests.fixtures.consul import POLICY
from tests.parts import wait_until
from tests.parts.agent import ConsulAgent


def replace_file(path: Path, text: str) -> None:
    """Replaces it as Kubernetes, Vault's agent and careful people do: another inode under the same name."""
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


def test_token_file_is_read_anew_when_it_was_replaced(file, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("registry_admin.consul.token_file.time.monotonic", lambda: now[0])
    token_file = TokenFile(str(file))
    assert token_file.token() == "first"
    replace_file(file, "second\n")
    assert token_file.token() == "first"  # looked at once a second
    now[0] = 1.5
    assert token_file.token() == "second"


def test_token_file_is_read_at_once_after_a_refusal_even_with_the_same_stamp(file):
    token_file = TokenFile(str(file))
    assert token_file.token() == "first"
    status = file.stat()
    file.write_text("other\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert token_file.token(refused="first") == "other"


@pytest.mark.parametrize("content", [None, "two words\n", b"\xff\xfe"])
def test_token_file_that_can_not_be_read_keeps_the_last_token_and_says_so_once(file, content, caplog):
    token_file = TokenFile(str(file))
    assert token_file.token() == "first"
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content)
    assert [token_file.token(refused="first") for _ in range(3)] == ["first"] * 3
    assert len(caplog.records) == 1
    assert "two words" not in caplog.text
    replace_file(file, "second")
    assert token_file.token(refused="first") == "second"


def accessor_of(agent: ConsulAgent, token: str) -> str:
    ids = [str(row["AccessorID"]) for row in agent.request("GET", "/v1/acl/tokens")]
    return next(key for key in ids if agent.request("GET", f"/v1/acl/token/{key}")["SecretID"] == token)


def delete_token(agent: ConsulAgent, token: str) -> None:
    agent.request("DELETE", f"/v1/acl/token/{accessor_of(agent, token)}")


@pytest.fixture
def rotated(guarded_agent, file):
    """`rotated()`: a new token in the file, and the old one deleted. The file holds a token from the beginning."""
    rules = POLICY.read_text()
    current = [guarded_agent.make_token(rules)]
    replace_file(file, current[0])

    def rotate(rules: str = rules) -> None:
        former, current[0] = current[0], guarded_agent.make_token(rules)
        replace_file(file, current[0])
        delete_token(guarded_agent, former)

    yield rotate
    guarded_agent.forget_services()


def config_of(agent: ConsulAgent, file: Path) -> ConsulConfig:
    return dataclasses.replace(agent.config, token=None, token_file=str(file))


def test_request_with_deleted_token_is_repeated_with_the_one_in_the_file(guarded_agent, file, rotated):
    api = ConsulApi(config_of(guarded_agent, file))
    digest = api.token_digest
    api.agent_node()
    rotated()
    assert api.agent_node().name
    assert api.token_digest != digest
    delete_token(guarded_agent, file.read_text())
    with pytest.raises(ConsulPermissionError):
        api.agent_node()
    api.close()


def test_module_registers_anew_after_a_rotation_and_its_death_reaches_the_catalog(
    guarded_agent, file, rotated, http_service
):
    service = http_service()
    check = CheckSpec(kind=CheckKind.HTTP, interval="1s", timeout="1s")
    spec = ServiceSpec(name="module", address=service.host, port=service.port, check=check)
    registration = Registration(spec=spec, registry=ServiceRegistry(config=config_of(guarded_agent, file))).start()
    try:
        assert registration.wait(20)
        digest = registration._token_digest
        rotated()
        wait_until(lambda: registration._token_digest != digest, 20, "the module to register anew")
        service.status = 500
        path = "/v1/health/checks/module"
        wait_until(
            lambda: [check["Status"] for check in guarded_agent.request("GET", path)] == ["critical"],
            20, "the catalog to know",
        )  # fmt: skip
    finally:
        registration.stop()
    wait_until(lambda: guarded_agent.request("GET", "/v1/catalog/service/module") == [], 10, "it to leave the catalog")
