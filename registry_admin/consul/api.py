"""ConsulApi: python-consul, with a transport that is safe to use.

As it stands python-consul has no timeouts, puts the ACL token into URLs, sends none at all on deregister, cannot send
Meta, and lets `../` in an ID reach another endpoint. All of that goes through its `connect`, which is replaced here;
py-consul calls the same thing `http_connect`, so either library may be installed.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import consul
import consul.base

from registry_admin.consul import validation
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.transport import Transport, one_line
from registry_admin.consul.types import CheckResult, ServiceInstance, ServiceSpec
from registry_admin.errors import ConsulRefusedError, InvalidReplyError, InvalidValueError

MAX_BLOCKING_WAIT_S = 600.0  # https://developer.hashicorp.com/consul/api-docs/features/blocking
_ENDPOINTS = {
    "event": "Event", "kv": "KV", "txn": "Txn", "agent": "Agent", "catalog": "Catalog", "health": "Health",
    "session": "Session", "acl": "ACL", "status": "Status", "query": "Query", "coordinate": "Coordinate",
    "operator": "Operator",
}  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A read's data, the index to block on (0 where there is none), and whether the data may be incomplete.

    Before Consul 1.11 nothing tells that ACLs have filtered a list: only a true `filtered_by_acls` proves anything.
    """

    data: T
    index: int
    known_leader: bool
    filtered_by_acls: bool


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

    def close(self) -> None:
        """Ends the idle connections; the next request opens new ones."""
        self.http.close()

    # -- writing, through the agent -----------------------------------------------------------------------------------

    def register(self, spec: ServiceSpec, *, marks: Mapping[str, str] | None, passing: bool = False) -> None:
        """Registers or updates an instance on the agent. Status of its checks and maintenance mode stay as they are.

        `marks` go into its Meta beside our digest; None leaves all of that out, as if we had never known it.

        Checks that an earlier registration had and this one hasn't stay behind too: take them off with
        `deregister_check`. Why Consul isn't told to replace them: docs/decisions/0003.
        """
        validation.meta(marks or {}, "marks")
        self.refuse_own_port(spec.address, spec.port)
        self._put(["agent", "service", "register"], data=json.dumps(spec.payload(marks=marks, passing=passing)))

    def refuse_own_port(self, address: str, port: int) -> None:
        """Raises InvalidValueError where a check would make Consul's agent call its own API.

        Who calls is the agent, wherever it is: loopback is its own machine, even when ours is another.
        """
        if port == self.config.port and (address.lower() == self.config.host.lower() or _is_loopback(address)):
            raise InvalidValueError("port", port, "this is Consul's own API; a check must not be pointed at it")

    def deregister(self, service_id: str) -> None:
        """Takes an instance off the agent; one that isn't there is as good as removed."""
        self._put(["agent", "service", "deregister", validation.service_id(service_id)], missing_is_fine=True)

    def deregister_check(self, check_id: str) -> None:
        """Takes a single check off the agent."""
        self._put(["agent", "check", "deregister", validation.check_id(check_id)], missing_is_fine=True)

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
        """One instance as registered on this agent, without its checks, or None."""
        path = _path(["agent", "service", validation.service_id(service_id)])
        response = self.http.request("GET", path)
        if response.code == 404:
            return None
        return ServiceInstance.from_agent(self._parsed(response, path, shape=dict).data, ())

    def agent_node(self) -> tuple[str, str]:
        """The agent's node name and ID; also the cheapest proof that an agent answers and that the token may read it.

        The ID changes when an agent has lost its data folder. Consul before 0.7.3 has none.
        """
        config = self._read(["agent", "self"], shape=dict).data.get("Config")
        name, node_id = (config.get("NodeName"), config.get("NodeID")) if isinstance(config, dict) else (None, None)
        if not isinstance(name, str) or not name:
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: it doesn't name its node.")
        return name, str(node_id or "")

    def text(self, *path: str, index: int = 0, wait_s: float = 0, stale: bool = False) -> Reply[str]:
        """The body of `GET /v1/…`, not parsed: for who reads the same thing again and again, or only wants the index.

        Blocks up to `wait_s` seconds where `index` is given. `stale`: any server may answer, so it goes on without a
        leader. Raises InvalidValueError for a path that no URL can hold.
        """
        response = self._get(path, index=index, wait_s=wait_s, stale=stale)
        self._require_found(response, _path(path))
        return _reply(response, response.body)

    def leader(self) -> str:
        """The cluster leader's address, or nothing while there is none."""
        return str(self._read(["status", "leader"], shape=str).data)

    def services(self, *, index: int = 0, wait_s: float = 0) -> Reply[dict[str, list[str]]]:
        """All service names in the catalog with their tags. Blocks up to `wait_s` seconds where `index` is given."""
        reply = self._read(["catalog", "services"], shape=dict, index=index, wait_s=wait_s)
        if not all(isinstance(tags, list | None) for tags in reply.data.values()):
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: a service's tags are no list.")
        return replace(reply, data={name: [str(tag) for tag in tags or ()] for name, tags in reply.data.items()})

    def health_states(self, *, index: int = 0, wait_s: float = 0) -> Reply[list[dict[str, Any]]]:
        """Every check in the catalog as Consul shows it. Blocks up to `wait_s` seconds where `index` is given."""
        reply = self._read(["health", "state", "any"], shape=list, index=index, wait_s=wait_s)
        if not all(isinstance(check, dict) for check in reply.data):
            raise InvalidReplyError(f"Consul at {self.config.url} gave an invalid reply: a check is no object.")
        return reply

    def instances(
        self, service: str, *, tag: str | None = None, passing: bool = False, index: int = 0, wait_s: float = 0
    ) -> Reply[list[ServiceInstance]]:
        """A service's instances on all nodes. Blocks up to `wait_s` seconds where `index` is given.

        Stale reads, so that they go on without a leader; Consul keeps them within milliseconds of it otherwise.
        """
        params: list[tuple[str, str]] = []
        if tag is not None:
            params.append(("tag", validation.tags([tag], "tag")[0]))
        if passing:
            params.append(("passing", "true"))
        path = ["health", "service", validation.service_name(service, "service")]
        reply = self._read(path, shape=list, params=params, index=index, wait_s=wait_s, stale=True)
        return replace(reply, data=[ServiceInstance.from_health(entry) for entry in reply.data])

    def _put(
        self,
        segments: Sequence[str],
        params: Iterable[tuple[str, str]] = (),
        *,
        data: str = "",
        missing_is_fine: bool = False,
    ) -> None:
        response = self.http.request("PUT", _path(segments), list(params), data=data)
        if response.code == 404 and not missing_is_fine:
            text = one_line(response.body) or "not found"
            raise ConsulRefusedError(f"Consul at {self.config.url} refused PUT {_path(segments)}: {text}.", status=404)

    def _read(
        self,
        segments: Sequence[str],
        *,
        shape: type,
        params: Iterable[tuple[str, str]] = (),
        index: int = 0,
        wait_s: float = 0,
        stale: bool = False,
    ) -> Reply[Any]:
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

    def _parsed(self, response: consul.base.Response, path: str, *, shape: type) -> Reply[Any]:
        self._require_found(response, path)
        refusal = f"Consul at {self.config.url} gave an invalid reply to {path}"
        try:
            data = json.loads(response.body)
        except (ValueError, RecursionError):
            raise InvalidReplyError(f"{refusal}: not JSON.") from None
        if not isinstance(data, shape):
            raise InvalidReplyError(f"{refusal}: {type(data).__name__} where {shape.__name__} was expected.")
        return _reply(response, data)

    def _require_found(self, response: consul.base.Response, path: str) -> None:
        if response.code == 404:
            message = (
                f"Consul at {self.config.url} gave an invalid reply to {path}: 404; is this really a Consul agent?"
            )
            raise InvalidReplyError(message, status=404)


def _reply(response: consul.base.Response, data: T) -> Reply[T]:
    index = response.headers.get("X-Consul-Index", "0")
    return Reply(
        data=data,
        index=int(index) if re.fullmatch(r"[0-9]{1,20}", index) else 0,
        known_leader=response.headers.get("X-Consul-KnownLeader", "true") != "false",
        filtered_by_acls=response.headers.get("X-Consul-Results-Filtered-By-ACLs", "false") == "true",
    )


def _path(segments: Iterable[str]) -> str:
    return "/v1/" + "/".join(segments)


def _is_loopback(address: str) -> bool:
    name = address.lower().rstrip(".")
    if name in ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback") or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
