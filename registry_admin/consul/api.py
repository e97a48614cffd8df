"""ConsulApi: python-consul, with a transport that is safe to use.

As it stands python-consul has no timeouts, puts the ACL token into URLs, sends none at all on deregister, cannot send
Meta, and lets `../` in an ID reach another endpoint. All of that goes through its `connect`, which is replaced here;
py-consul calls the same thing `http_connect`, so either library may be installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import consul
import consul.base

from registry_admin.consul import validation
from registry_admin.consul.addresses import is_loopback
from registry_admin.consul.check_fields import known_definitions
from registry_admin.consul.check_targets import RESOLVE_S
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.health import CheckResult, Health
from registry_admin.consul.name_resolution import known_addresses
from registry_admin.consul.request_path import RequestPath
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.transport import IDENTITY_PATH, Transport
from registry_admin.consul.transport_errors import reason_text
from registry_admin.consul.types import ServiceInstance
from registry_admin.errors import ConsulRefusedError, InvalidReplyError, InvalidValueError

MAX_BLOCKING_WAIT_S = 600.0  # https://developer.hashicorp.com/consul/api-docs/features/blocking
_ENDPOINTS = {
    "event": "Event", "kv": "KV", "txn": "Txn", "agent": "Agent", "catalog": "Catalog", "health": "Health",
    "session": "Session", "acl": "ACL", "status": "Status", "query": "Query", "coordinate": "Coordinate",
    "operator": "Operator",
}  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class ConsulReply(Generic[T]):
    """A read's data, the index to block on (0 where there is none), and whether the data may be incomplete.

    `filtered_by_acls` is told by Consul from 1.11 on, and only to requests with a token: only a true one proves
    anything. `may_be_hidden`: no token was sent, and what nobody has allowed is hidden (told from 1.9 on).
    `is_streamed`: it comes from a view that the agent keeps, which knows neither of the two nor the leader.
    """

    data: T
    index: int
    known_leader: bool
    filtered_by_acls: bool
    may_be_hidden: bool = False
    is_streamed: bool = False


class AgentIdentity(NamedTuple):
    """The node of an agent. The ID changes when an agent has lost its data folder; Consul before 0.7.3 has none."""

    name: str
    id: str
    datacenter: str


class ConsulApi(consul.Consul):
    """Everything that Registry Admin says to one Consul agent. Safe to share between threads.

    Every method raises ConsulUnavailableError (try again later), ConsulRefusedError (don't) or InvalidValueError
    (nothing was sent). python-consul's own endpoints (`agent`, `catalog`, `kv`, …) go over the same transport.
    """

    def __init__(self, config: ConsulConfig | None = None) -> None:
        # Not super().__init__, which reads the environment over what it was given: docs/decisions/0001.
        self.config = config or ConsulConfig.from_env()
        self.http = self.http_connect()
        self.token = None  # stays so: the library would put it into URLs; the transport sends it as a header
        self.scheme, self.dc, self.consistency = self.config.scheme, None, "default"
        for attribute, name in _ENDPOINTS.items():
            endpoint = getattr(consul.Consul, name, None) or getattr(consul.base, name)
            setattr(self, attribute, endpoint(self))

    def connect(self, *_args: Any, **_kwargs: Any) -> Transport:
        """The extension point of python-consul: which transport to use."""
        return Transport(self.config)

    http_connect = connect  # the same in py-consul

    def __repr__(self) -> str:
        return f"ConsulApi({self.config.url!r})"

    @property
    def token_digest(self) -> str:
        """Changes when the token changes. It means something within this process only."""
        return str(self.http.token_digest)

    def close(self) -> None:
        """Ends the idle connections; the next request opens new ones."""
        self.http.close()

    # -- writing, through the agent -----------------------------------------------------------------------------------

    def register(
        self,
        spec: ServiceSpec,
        *,
        marks: Mapping[str, str] | None,
        status: str = "",
        maintenance: str = "",
        consul_evicts_after: str = "",
        observed: ServiceInstance | None = None,
    ) -> None:
        """Registers or updates an instance on the agent. Status of its checks and maintenance mode stay as they are.

        `marks` go into its Meta beside our digest, which marks of a release and None leave out. `status`:
        what a check that the agent doesn't have yet begins with, where its health is known.

        Checks that an earlier registration had and this one hasn't stay behind too: take them off with
        `deregister_check`. Why Consul isn't told to replace them: docs/decisions/0003. `maintenance` (its reason),
        `consul_evicts_after` and `observed`: see `ServiceSpec.payload`. Options of checks that the agent is too old to
        know are left out, because it would refuse the whole registration.
        """
        validation.meta(marks or {}, "marks")
        self.check_target(spec)
        body = spec.payload(
            marks=marks,
            status=status,
            maintenance=maintenance,
            consul_evicts_after=consul_evicts_after,
            observed=observed,
        )
        if "Checks" in body:
            body["Checks"] = known_definitions(body["Checks"], self.agent_version)
        self._put(["agent", "service", "register"], data=json.dumps(body))

    def check_target(self, spec: ServiceSpec) -> None:
        """Raises InvalidValueError where the spec's check would be pointed at what it must not ask, by any address."""
        self.refuse_own_port(spec.address, spec.port)
        if spec.check.asks_instance:
            for address in self.config.target_rules.check_host(spec.address, spec.port):
                self.refuse_own_port(address, spec.port)

    def refuse_own_port(self, address: str, port: int) -> None:
        """Raises InvalidValueError where a check would make Consul's agent call its own API.

        Who calls is the agent, wherever it is: loopback is its own machine, even when ours is another.
        """
        is_local = not address or is_loopback(address)
        if port == self.config.port and (is_local or self._is_own_host(address)):
            raise InvalidValueError("port", port, "this is Consul's own API; a check must not be pointed at it")

    def _is_own_host(self, address: str) -> bool:
        host = self.config.host
        return address.lower() == host.lower() or address in known_addresses(host, timeout_s=RESOLVE_S)

    def deregister(self, service_id: str) -> None:
        """Takes an instance off the agent; one that isn't there is as good as removed."""
        self._put(["agent", "service", "deregister", validation.service_id(service_id)], ignore_missing=True)

    def deregister_from_catalog(self, node: str, service_id: str) -> None:
        """Takes an instance out of the catalog, where its agent can't. An agent that has it puts it back."""
        if not node:  # without a ServiceID, Consul would take the whole node
            raise InvalidValueError("node", node, "give the name of the node")
        body = {"Node": node, "ServiceID": validation.service_id(service_id)}
        self._put(["catalog", "deregister"], data=json.dumps(body))

    def deregister_check(self, check_id: str) -> None:
        """Takes a single check off the agent."""
        self._put(["agent", "check", "deregister", validation.check_id(check_id)], ignore_missing=True)

    def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        """Puts an instance into maintenance mode, or takes it out; people see `reason` (512 characters at most)."""
        params = [("enable", "true" if enable else "false")]
        if reason:
            params.append(("reason", validation.text(reason, "reason", maximum=512)))
        self._put(["agent", "service", "maintenance", validation.service_id(service_id)], params)

    def update_ttl(self, check_id: str, status: str, *, output: str = "") -> None:
        """Reports a TTL check as `passing`, `warning` or `critical`.

        Raises ConsulRefusedError with status 404 where the agent doesn't know the check: register again.
        """
        if status not in ("passing", "warning", "critical"):
            raise InvalidValueError("status", status, "give 'passing', 'warning' or 'critical'")
        body = json.dumps({"Status": status, "Output": output})
        self._put(["agent", "check", "update", validation.check_id(check_id)], data=body)

    # -- reading ------------------------------------------------------------------------------------------------------

    def agent_instances(self) -> dict[str, ServiceInstance]:
        """All that is registered on this agent, by instance ID, with its checks: two reads, however many there are.

        The node's own checks count for each instance, as they do in Consul.
        """
        services = self._read(["agent", "services"], shape=dict).data
        checks: dict[str, list[CheckResult]] = {"": []}  # by instance ID; the node's own have none
        for raw in self._read(["agent", "checks"], shape=dict).data.values():
            result = CheckResult.from_consul(raw)
            checks.setdefault(str(raw.get("ServiceID") or ""), []).append(result)
        return {
            service_id: ServiceInstance.from_agent(raw, (*checks.get(service_id, ()), *checks[""]))
            for service_id, raw in services.items()
        }

    def agent_instance(self, service_id: str) -> ServiceInstance | None:
        """Returns an instance as registered on this agent, without its checks, or None."""
        if "/" in validation.service_id(service_id):  # an old agent's path can't hold it
            params = [("filter", f"ID == {json.dumps(service_id)}")]
            services = self._read(["agent", "services"], shape=dict, params=params).data
            return ServiceInstance.from_agent(services[service_id], ()) if service_id in services else None
        path = _path(["agent", "service", service_id])
        response = self.http.request("GET", path)
        if response.code == 404:
            return None
        return ServiceInstance.from_agent(self._parsed(response, path, shape=dict).data, ())

    def catalog_instance(self, node: str, service_id: str) -> ServiceInstance | None:
        """Returns an instance as the catalog has it on a node, without its checks, or None."""
        params = [("filter", f"ID == {json.dumps(validation.service_id(service_id))}"), ("consistent", "")]
        data = self._read(["catalog", "node", node], shape=dict, params=params).data
        raw = (data.get("Services") or {}).get(service_id)
        return None if raw is None else ServiceInstance.from_agent(raw, ())

    def instance_checks(self, service_id: str) -> tuple[CheckResult, ...]:
        """Returns the checks that an instance has on this agent, without the node's own."""
        params = [("filter", f"ServiceID == {json.dumps(validation.service_id(service_id))}")]
        reply = self._read(["agent", "checks"], shape=dict, params=params)
        return tuple(CheckResult.from_consul(raw) for raw in reply.data.values())

    def failing_checks(self) -> dict[str, CheckResult]:
        """Returns the checks that don't pass at this agent, by their IDs: mostly few, however much is registered."""
        reply = self._read(["agent", "checks"], shape=dict, params=[("filter", 'Status != "passing"')])
        return {str(key): CheckResult.from_consul(raw) for key, raw in reply.data.items()}

    def agent_node(self) -> AgentIdentity:
        """Returns the agent's node; also the cheapest proof that the token may read from it."""
        return self.agent_of(self.http.request("GET", IDENTITY_PATH))

    def agent_of(self, response: consul.base.Response) -> AgentIdentity:
        """Returns the node of the agent that gave this reply to `GET /v1/agent/self`."""
        known = self._agent_config(response)
        name = known.get("NodeName")
        if not isinstance(name, str) or not name:
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: it doesn't name its node.")
        return AgentIdentity(
            name=name, id=str(known.get("NodeID") or ""), datacenter=str(known.get("Datacenter") or "")
        )

    def agent_address(self) -> str:
        """Returns the address that the agent advertises to other nodes."""
        reply = self._parsed(self.http.request("GET", IDENTITY_PATH), IDENTITY_PATH, shape=dict)
        member = reply.data.get("Member")
        address = member.get("Addr") if isinstance(member, dict) else None
        if not isinstance(address, str) or not address:
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: it doesn't name its address.")
        return address

    def agent_version(self) -> tuple[int, ...]:
        """Returns the numbers of the agent's version, `(1, 8, 7)`; () where it names none."""
        text = str(self._agent_config(self.http.request("GET", IDENTITY_PATH)).get("Version") or "")
        match = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
        return tuple(map(int, match[0].split("."))) if match else ()

    def _agent_config(self, response: consul.base.Response) -> dict[str, Any]:
        config = self._parsed(response, IDENTITY_PATH, shape=dict).data.get("Config")
        return config if isinstance(config, dict) else {}

    def created_indexes(self, node: str) -> dict[str, int]:
        """Returns Consul's index at which each instance of a node came into the catalog, by instance ID.

        It stays the same while the instance is registered anew, and differs once it was gone in between.
        """
        data = self._read(["catalog", "node", node], shape=dict).data
        services = data.get("Services") or {}
        if not isinstance(services, dict) or not all(isinstance(raw, dict) for raw in services.values()):
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: a node without its Services.")
        return {key: raw["CreateIndex"] for key, raw in services.items() if isinstance(raw.get("CreateIndex"), int)}

    def text(self, *path: str, index: int = 0, wait_s: float = 0, stale: bool = False) -> ConsulReply[str]:
        """Returns the body of `GET /v1/…` unparsed, for repeated reads or for its index only.

        Blocks up to `wait_s` seconds where `index` is given. `stale`: any server may answer, so it goes on without a
        leader. Raises InvalidValueError for a path that no URL can hold.
        """
        response = self._get(path, index=index, wait_s=wait_s, stale=stale)
        self._check_exists(response, _path(path))
        return self._reply(response, response.body)

    def leader(self) -> str:
        """Returns the cluster leader's address, or "" while there is none."""
        return str(self._read(["status", "leader"], shape=str).data)

    def services(self, *, index: int = 0, wait_s: float = 0) -> ConsulReply[dict[str, list[str]]]:
        """All service names in the catalog with their tags. Blocks up to `wait_s` seconds where `index` is given."""
        reply = self._read(["catalog", "services"], shape=dict, index=index, wait_s=wait_s)
        if not all(isinstance(tags, list | None) for tags in reply.data.values()):
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: a service's tags are no list.")
        return replace(reply, data={name: [str(tag) for tag in tags or ()] for name, tags in reply.data.items()})

    def health_states(self, *, index: int = 0, wait_s: float = 0) -> ConsulReply[list[dict[str, Any]]]:
        """Every check in the catalog as Consul shows it. Blocks up to `wait_s` seconds where `index` is given."""
        reply = self._read(["health", "state", "any"], shape=list, index=index, wait_s=wait_s)
        if not all(isinstance(check, dict) for check in reply.data):
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: a check is no object.")
        return reply

    def instances(
        self, service: str, *, tag: str | None = None, passing: bool = False, index: int = 0, wait_s: float = 0
    ) -> ConsulReply[list[ServiceInstance]]:
        """A service's instances on all nodes. Blocks up to `wait_s` seconds where `index` is given.

        Stale reads, so that they go on without a leader; Consul keeps them within milliseconds of it otherwise. An
        empty list that was streamed proves nothing, so the leader is asked once more: docs/decisions/0029.
        """
        params: list[tuple[str, str]] = []
        if tag is not None:
            params.append(("tag", validation.tags([tag], "tag")[0]))
        if passing:
            params.append(("passing", "true"))
        path = ["health", "service", validation.service_name(service, "service")]
        reply = self._read(path, shape=list, params=params, index=index, wait_s=wait_s, stale=True)
        if not reply.data and reply.is_streamed:
            confirmed = self._read(path, shape=list, params=params)
            reply = replace(confirmed, index=max(confirmed.index, reply.index))
        instances = [ServiceInstance.from_health(entry) for entry in reply.data]
        if passing:  # a server older than its agent ignores it: https://github.com/hashicorp/consul/pull/21336
            instances = [instance for instance in instances if instance.health is Health.PASSING]
        return replace(reply, data=instances)

    def _put(
        self,
        segments: Sequence[str],
        params: Iterable[tuple[str, str]] = (),
        *,
        data: str = "",
        ignore_missing: bool = False,
    ) -> None:
        response = self.http.request("PUT", RequestPath(segments), list(params), data=data)
        if response.code == 404 and not ignore_missing:
            text = reason_text(response.body) or "not found"
            raise ConsulRefusedError(
                f"Consul at {self.config.url} refused PUT {RequestPath(segments)}: {text}.", status=404
            )

    def _read(
        self,
        segments: Sequence[str],
        *,
        shape: type,
        params: Iterable[tuple[str, str]] = (),
        index: int = 0,
        wait_s: float = 0,
        stale: bool = False,
    ) -> ConsulReply[Any]:
        response = self._get(segments, params, index=index, wait_s=wait_s, stale=stale)
        return self._parsed(response, _path(segments), shape=shape)

    def _get(
        self,
        segments: Sequence[str],
        params: Iterable[tuple[str, str]] = (),
        *,
        index: int,
        wait_s: float,
        stale: bool,
    ) -> consul.base.Response:
        pairs = [*params, *([("stale", "")] if stale else [])]
        read_timeout = None
        if index > 0 and wait_s > 0:  # a wait of 0 would mean Consul's default of 5 minutes
            wait_s = min(wait_s, MAX_BLOCKING_WAIT_S)
            pairs += [("index", str(index)), ("wait", f"{max(int(wait_s * 1000), 1)}ms")]
            # Consul adds up to wait/16 of its own, so that blocking queries don't all return together.
            read_timeout = wait_s + wait_s / 16 + self.config.read_timeout
        return self.http.request("GET", _path(segments), pairs, read_timeout=read_timeout)

    def _parsed(self, response: consul.base.Response, path: str, *, shape: type) -> ConsulReply[Any]:
        self._check_exists(response, path)
        refusal = f"Consul at {self.config.url} gave an invalid reply to {path}"
        try:
            data = json.loads(response.body)
        except (ValueError, RecursionError):
            raise InvalidReplyError(f"{refusal}: not JSON.") from None
        if not isinstance(data, shape):
            raise InvalidReplyError(f"{refusal}: {type(data).__name__} where {shape.__name__} was expected.")
        return self._reply(response, data)

    def _check_exists(self, response: consul.base.Response, path: str) -> None:
        if response.code == 404:
            message = (
                f"Consul at {self.config.url} gave an invalid reply to {path}: 404; is this really a Consul agent?"
            )
            raise InvalidReplyError(message, status=404)

    def _reply(self, response: consul.base.Response, data: T) -> ConsulReply[T]:
        headers = response.headers
        index = headers.get("X-Consul-Index", "0")
        is_streamed = headers.get("X-Consul-Query-Backend") == "streaming"
        return ConsulReply(
            data=data,
            index=int(index) if re.fullmatch(r"[0-9]{1,20}", index) else 0,
            known_leader=is_streamed or headers.get("X-Consul-KnownLeader", "true") != "false",
            filtered_by_acls=headers.get("X-Consul-Results-Filtered-By-ACLs", "false") == "true",
            may_be_hidden=not self.http.token and headers.get("X-Consul-Default-ACL-Policy") == "deny",
            is_streamed=is_streamed,
        )


def _path(segments: Iterable[str]) -> str:
    return "/v1/" + "/".join(segments)
