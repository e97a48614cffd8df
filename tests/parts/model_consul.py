"""A model of Consul: agents on several nodes and their catalog, as far as the product asks, within this process.

It stands in for real agents where thousands of histories are tried. tests/consul/test_model_consul.py runs one suite
against it and against a real agent.
"""

from __future__ import annotations

import copy
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import requests.adapters
import urllib3

HOST = "model.consul.invalid"
Json = Any


class Refusal(Exception):  # noqa: N818 - a reply, not an error of the test
    """A reply other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


@dataclass
class ModelAgent:
    """An agent with its registrations; `known_services` and `known_checks` are what the catalog has of them.

    `denied`: IDs of instances whose token is gone, so that the catalog refuses what the agent tells of them.
    """

    node: str
    node_id: str
    is_alive: bool = True
    denied: set[str] = field(default_factory=set)
    services: dict[str, Json] = field(default_factory=dict)
    checks: dict[str, Json] = field(default_factory=dict)
    definitions: dict[str, Json] = field(default_factory=dict)
    known_services: dict[str, Json] = field(default_factory=dict)
    known_checks: dict[str, Json] = field(default_factory=dict)

    def tell(self) -> None:
        """Brings the catalog up to date, as far as the agent can."""
        if self.is_alive:
            self.known_services = self._synced(self.services, self.known_services, lambda service: service["ID"])
            self.known_checks = self._synced(self.checks, self.known_checks, lambda check: check["ServiceID"])

    def _synced(self, own: dict[str, Json], known: dict[str, Json], owner: Callable[[Json], str]) -> dict[str, Json]:
        accepted = {key: entry for key, entry in own.items() if owner(entry) not in self.denied}
        refused = {key: entry for key, entry in known.items() if owner(entry) in self.denied}
        return copy.deepcopy(accepted | refused)

    def register(self, body: Json) -> None:
        name = body.get("Name") or ""
        if not name:
            raise Refusal(400, "Missing service name")
        service_id = body.get("ID") or name
        self.denied.discard(service_id)  # from now on by the token of this request
        self.services[service_id] = _registration(body, service_id, name)
        checks = body.get("Checks") or ([body["Check"]] if body.get("Check") else [])
        for number, check in enumerate(checks, 1):
            automatic = f"service:{service_id}" + (f":{number}" if len(checks) > 1 else "")
            self.add_check(check.get("CheckID") or automatic, check, service_id)

    def add_check(self, check_id: str, check: Json, service_id: str = "") -> None:
        before = self.checks.get(check_id)
        kind = next((kind for kind in ("HTTP", "TCP", "TTL") if check.get(kind)), "")
        service = self.services.get(service_id, {})
        self.definitions[check_id] = dict(check)
        self.checks[check_id] = {
            "Node": self.node,
            "CheckID": check_id,
            "Name": check.get("Name") or f"Service '{service.get('Service', '')}' check",
            "Status": before["Status"] if before else check.get("Status") or "critical",
            "Notes": check.get("Notes") or "",
            "Output": before["Output"] if before else "",
            "ServiceID": service_id,
            "ServiceName": service.get("Service", ""),
            "ServiceTags": service.get("Tags", []),
            "Type": kind.lower(),
        }

    def deregister(self, service_id: str) -> None:
        if service_id not in self.services:
            raise Refusal(404, f'Unknown service ID "{service_id}"')
        del self.services[service_id]
        for check_id in [key for key, check in self.checks.items() if check["ServiceID"] == service_id]:
            self.deregister_check(check_id)

    def deregister_check(self, check_id: str) -> None:
        if check_id not in self.checks:
            raise Refusal(404, f'Unknown check ID "{check_id}"')
        del self.checks[check_id]
        self.definitions.pop(check_id, None)

    def maintain(self, service_id: str, *, enable: bool, reason: str) -> None:
        if service_id not in self.services:
            raise Refusal(404, f'Unknown service ID "{service_id}"')
        check_id = f"_service_maintenance:{service_id}"
        if enable and check_id not in self.checks:
            notes = reason or "Maintenance mode is enabled for this service, but no reason was provided."
            self.add_check(check_id, {"Name": "Service Maintenance Mode", "Notes": notes}, service_id)
        elif not enable and check_id in self.checks:
            self.deregister_check(check_id)

    def run_checks(self, alive: set[tuple[str, int]]) -> None:
        """Runs all checks: a target answers if its address and port are in `alive`."""
        for check_id, definition in self.definitions.items():
            target = urlsplit(definition["HTTP"]).netloc if definition.get("HTTP") else definition.get("TCP")
            if target:
                host, _, port = target.rpartition(":")
                answers = (host, int(port)) in alive
                self.checks[check_id]["Status"] = "passing" if answers else "critical"
                self.checks[check_id]["Output"] = "ok" if answers else "connection refused"


def _registration(body: Json, service_id: str, name: str) -> Json:
    weights = body.get("Weights") or {"Passing": 1, "Warning": 1}
    return {
        "ID": service_id,
        "Service": name,
        "Tags": list(body.get("Tags") or []),
        "Meta": dict(body.get("Meta") or {}),
        "Port": body.get("Port") or 0,
        "Address": body.get("Address") or "",
        "TaggedAddresses": dict(body.get("TaggedAddresses") or {}),
        "Weights": dict(weights),
        "EnableTagOverride": bool(body.get("EnableTagOverride")),
    }


def _entry(services: dict[str, Json], checks: dict[str, Json], service_id: str) -> Json:
    if service_id not in services:
        return None
    own = {key: check for key, check in checks.items() if check["ServiceID"] == service_id}
    return copy.deepcopy({"service": services[service_id], "checks": own})


def _filtered(data: Json, expression: str) -> Json:
    """Returns the entries that a filter with a single comparison lets through."""
    if not expression:
        return data
    name, operator, value = expression.split(" ", 2)
    entries = data.get("Services", data)
    matching = {key: raw for key, raw in entries.items() if (raw[name] == json.loads(value)) == (operator == "==")}
    return data | {"Services": matching} if "Services" in data else matching


@dataclass(frozen=True)
class Write:
    """A change by the product: the instance before and after, None where it isn't there, each with its checks."""

    request: str
    node: str
    id: str
    before: Json
    after: Json


class CrashError(BaseException):
    """The product's process ends here."""


class ModelConsul:
    """Agents that share a catalog; the product is connected to the agent of `entry`.

    `writes` are the product's changes. `before_request` and `after_request` are called around each of its requests and
    may raise; `reply` may replace the data of a read.
    """

    def __init__(self, *nodes: str) -> None:
        self.agents = {node: ModelAgent(node, f"id-of-{node}") for node in nodes}
        self.entry = nodes[0]
        self.alive: set[tuple[str, int]] = set()
        self.writes: list[Write] = []
        self.before_request: Callable[[str, str], None] = lambda _method, _path: None
        self.after_request: Callable[[str, str], None] = lambda _method, _path: None
        self.reply: Callable[[str, Json], Json] = lambda _path, data: data
        self._lock = threading.RLock()
        self._index = 1

    @property
    def agent(self) -> ModelAgent:
        return self.agents[self.entry]

    def run_checks(self) -> None:
        for agent in self.agents.values():
            if agent.is_alive:
                agent.run_checks(self.alive)
                agent.tell()

    def instance(self, node: str, service_id: str) -> Json:
        """Returns a copy of an instance at its agent, with its checks, or None."""
        agent = self.agents[node]
        return _entry(agent.services, agent.checks, service_id)

    def catalog_entry(self, node: str, service_id: str) -> Json:
        """Returns a copy of an instance as the catalog has it, with its checks, or None."""
        agent = self.agents[node]
        return _entry(agent.known_services, agent.known_checks, service_id)

    # -- requests -----------------------------------------------------------------------------------------------------

    def handle(self, method: str, url: str, body: bytes) -> tuple[int, str]:
        """Returns the status and the text of the reply to a request of the product."""
        parts = urlsplit(url)
        segments = [unquote(segment) for segment in parts.path.split("/")[2:]]
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        path = "/".join(segments)
        with self._lock:
            self.before_request(method, path)
            try:
                if not self.agent.is_alive:
                    raise ConnectionRefusedError
                if method == "PUT":
                    write = self._write_catalog if segments[0] == "catalog" else self._write
                    write(segments, query, json.loads(body or b"null"))
                    status, text = 200, "null"
                else:
                    data = _filtered(self._read(segments), query.get("filter", ""))
                    status, text = 200, json.dumps(self.reply(path, data))
            except Refusal as refusal:
                status, text = refusal.status, refusal.text
            self.after_request(method, path)
        return status, text

    def _write(self, segments: list[str], query: dict[str, str], body: Json) -> None:
        agent, (_, kind, verb, *rest) = self.agent, segments
        if kind == "check":
            service_id = agent.checks.get(rest[0], {}).get("ServiceID", "") if rest else ""
        else:
            service_id = rest[0] if rest else body.get("ID") or body.get("Name") or ""
        before = self.instance(agent.node, service_id)
        if (kind, verb) == ("service", "register"):
            agent.register(body)
        elif (kind, verb) == ("service", "deregister"):
            agent.deregister(rest[0])
        elif (kind, verb) == ("service", "maintenance"):
            agent.maintain(rest[0], enable=query["enable"] == "true", reason=query.get("reason", ""))
        elif (kind, verb) == ("check", "deregister"):
            agent.deregister_check(rest[0])
        elif (kind, verb) == ("check", "update"):
            agent.checks[rest[0]] |= {"Status": body["Status"], "Output": body["Output"]}
        elif (kind, verb) == ("check", "register"):
            agent.add_check(body.get("ID") or body.get("CheckID") or body["Name"], body, body.get("ServiceID", ""))
        else:
            raise Refusal(404, "")
        agent.tell()
        self._index += 1
        after = self.instance(agent.node, service_id)
        self.writes.append(Write(f"{kind}/{verb}", agent.node, service_id, before, after))

    def _write_catalog(self, segments: list[str], _query: dict[str, str], body: Json) -> None:
        """Writes into the catalog past the agents. One that has been told nothing of it puts its own back."""
        node = body["Node"]
        if node not in self.agents:
            raise Refusal(404, "the model has no node without an agent")
        agent = self.agents[node]
        if segments[1] == "register":
            service = body["Service"]
            agent.known_services[service["ID"]] = _registration(service, service["ID"], service["Service"])
        elif segments[1] == "deregister":
            service_id = body["ServiceID"]
            before = self.catalog_entry(node, service_id)
            agent.known_services.pop(service_id, None)
            for key in [key for key, check in agent.known_checks.items() if check["ServiceID"] == service_id]:
                del agent.known_checks[key]
            self.writes.append(Write("catalog/deregister", node, service_id, before, None))
        else:
            raise Refusal(404, "")
        self._index += 1

    def _read(self, segments: list[str]) -> Json:
        return self._read_agent(segments) if segments[0] in ("agent", "status") else self._read_catalog(segments)

    def _read_agent(self, segments: list[str]) -> Json:
        match segments:
            case ["agent", "self"]:
                config = {"NodeName": self.agent.node, "NodeID": self.agent.node_id, "Datacenter": "dc1"}
                return {"Config": {**config, "Version": "1.8.7", "Server": True}}
            case ["agent", "services"]:
                return self.agent.services
            case ["agent", "checks"]:
                return self.agent.checks
            case ["agent", "service", service_id]:
                if service_id not in self.agent.services:
                    raise Refusal(404, f"unknown service ID: {service_id}")
                return self.agent.services[service_id]
            case ["status", "leader"]:
                return "127.0.0.1:8300"
        raise Refusal(404, "")

    def _read_catalog(self, segments: list[str]) -> Json:
        match segments:
            case ["catalog", "nodes"]:
                return [self._node(agent) for agent in self.agents.values()]
            case ["catalog", "services"]:
                return {"consul": []} | {
                    service["Service"]: service["Tags"]
                    for agent in self.agents.values()
                    for service in agent.known_services.values()
                }
            case ["catalog", "node", name]:
                if name not in self.agents:
                    return None
                agent = self.agents[name]
                return {"Node": self._node(agent), "Services": agent.known_services}
            case ["health", "state", state]:
                checks = [check for agent in self.agents.values() for check in self._known_checks(agent)]
                return [check for check in checks if state in ("any", check["Status"])]
            case ["health", "node", name]:
                return self._known_checks(self.agents[name]) if name in self.agents else []
            case ["health", "service", name]:
                return [
                    {"Node": self._node(agent), "Service": service, "Checks": self._checks_of(agent, key)}
                    for agent in self.agents.values()
                    for key, service in agent.known_services.items()
                    if service["Service"].lower() == name.lower()
                ]
        raise Refusal(404, "")

    def _node(self, agent: ModelAgent) -> Json:
        return {"ID": agent.node_id, "Node": agent.node, "Address": "127.0.0.1", "Datacenter": "dc1", "Meta": {}}

    def _known_checks(self, agent: ModelAgent) -> list[Json]:
        serf = {
            "Node": agent.node, "CheckID": "serfHealth", "Name": "Serf Health Status", "ServiceID": "", "Notes": "",
            "Status": "passing" if agent.is_alive else "critical", "Output": "", "ServiceName": "", "ServiceTags": [],
        }  # fmt: skip
        return [serf, *agent.known_checks.values()]

    def _checks_of(self, agent: ModelAgent, service_id: str) -> list[Json]:
        return [check for check in self._known_checks(agent) if check["ServiceID"] in ("", service_id)]

    @contextmanager
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelConsul]:
        """Lets all requests to HOST reach this model, until the end of the block."""
        send = requests.adapters.HTTPAdapter.send

        def answer(adapter: Any, request: Any, **options: Any) -> Any:
            if urlsplit(request.url).hostname != HOST:
                return send(adapter, request, **options)
            try:
                status, text = self.handle(request.method, request.url, request.body or b"")
            except OSError as error:
                raise requests.exceptions.ConnectionError(error) from error
            headers = {"X-Consul-Index": str(self._index), "X-Consul-KnownLeader": "true"}
            body = io.BytesIO(text.encode())
            raw = urllib3.HTTPResponse(body=body, headers=headers, status=status, preload_content=False)
            return adapter.build_response(request, raw)

        with monkeypatch.context() as patch:
            patch.setattr(requests.adapters.HTTPAdapter, "send", answer)
            patch.setenv("CONSUL_HTTP_ADDR", f"{HOST}:8500")
            yield self
