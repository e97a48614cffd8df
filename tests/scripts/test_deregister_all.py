"""The end of scripts/run: whatever IDs the services at the agent have, it ends, and nothing but them is touched."""

from __future__ import annotations

from types import SimpleNamespace

from scripts.run_everything.parts import deregister_all
from tests.parts.hostile import TEXTS


def test_deregister_all_takes_out_what_consul_lets_go_whatever_the_ids(make_agent):
    agent = make_agent()
    ids = [TEXTS[kind] for kind in ("only a space", "newline", "question mark and hash", "Arabic")]
    ids += ["../../leave", ".."]
    for service_id in [*ids, "api-1"]:
        agent.request("PUT", "/v1/agent/service/register", body={"Name": "api", "ID": service_id, "Port": 1})
    assert deregister_all(SimpleNamespace(consul_url=agent.url)) == len(ids) + 1
    assert set(agent.request("GET", "/v1/agent/services")) <= {TEXTS["newline"], "../../leave", ".."}
    assert agent.request("GET", "/v1/status/leader")
