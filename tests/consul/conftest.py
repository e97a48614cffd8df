"""The same agent twice: without ACLs, and denying by default with a token that has the policy of docs/."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_admin.consul import ConsulApi
from tests.parts import ConsulAgent

POLICY = Path(__file__).parent.parent.parent / "docs" / "consul-policy.hcl"


@pytest.fixture(scope="session")
def guarded_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A real agent with `default_policy = "deny"`; its `token` may do what docs/consul-policy.hcl says."""
    agent = ConsulAgent(tmp_path_factory.mktemp("consul"), management_token=str(uuid.uuid4()))
    try:
        agent.start()
        agent.token = agent.make_token(POLICY.read_text())
        yield agent
    finally:
        agent.stop()


@pytest.fixture(params=["open", "guarded"])
def agent(request: pytest.FixtureRequest) -> Iterator[ConsulAgent]:
    """Whatever uses this runs on both."""
    agent = request.getfixturevalue({"open": "consul_agent", "guarded": "guarded_agent"}[request.param])
    yield agent
    agent.forget_services()


@pytest.fixture
def api(agent: ConsulAgent) -> Iterator[ConsulApi]:
    api = ConsulApi(agent.config)
    yield api
    api.close()
