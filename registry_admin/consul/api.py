"""ConsulApi: python-consul, with a transport that is safe to use.

As it stands python-consul has no timeouts, puts the ACL token into URLs, sends none at all on deregister, cannot send
Meta, and lets `../` in an ID reach another endpoint. All of that goes through its `connect`, which is replaced here;
py-consul calls the same thing `http_connect`, so either library may be installed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import consul
import consul.base
import requests
import requests.adapters

from registry_admin.consul import validation
from registry_admin.consul.config import ConsulConfig
from registry_admin.consul.types import CheckResult, ServiceInstance, ServiceSpec
from registry_admin.errors import (
    ConsulPermissionError,
    ConsulRefusedError,
    ConsulUnavailableError,
    InvalidReplyError,
    InvalidValueError,
)

MAX_BLOCKING_WAIT_S = 600.0  # https://developer.hashicorp.com/consul/api-docs/features/blocking
POOL_SIZE = 32
_ENDPOINTS = {
    "event": "Event", "kv": "KV", "txn": "Txn", "agent": "Agent", "catalog": "Catalog", "health": "Health",
    "session": "Session", "acl": "ACL", "status": "Status", "query": "Query", "coordinate": "Coordinate",
    "operator": "Operator",
}  # fmt: skip


T = TypeVar("T")


@dataclass(frozen=True)
class Reply(Generic[T]):
    """A read's data, the index to block on, and whether the data may be incomplete."""

    data: T
    index: int
    known_leader: bool
    filtered_by_acls: bool


class Transport(consul.base.HTTPClient):
    """One pooled `requests` session: timeouts, the token in a header only, no proxies, no redirects, errors mapped."""

    def __init__(self, config: ConsulConfig) -> None:
        super().__init__(config.host, config.port, config.scheme, config.verify, config.cert)
        self.base_uri = config.url
        self._config = config
        self._session, self._pid = self._make_session(), os.getpid()

    @property
    def session(self) -> requests.Session:
        """This process's session: after a fork the connections belong to the parent."""
        if self._pid != os.getpid():
            self._session, self._pid = self._make_session(), os.getpid()
        return self._session

    def _make_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # no proxies and no .netrc between us and the agent
        session.cookies.set_policy(
            DefaultCookiePolicy(allowed_domains=())
        )  # nothing that threads could share by mistake
        session.verify, session.cert = self._config.verify, self._config.cert
        session.headers["Accept-Encoding"] = "identity"  # on loopback gzip doubles the time of a large read
        if self._config.token:
            session.headers["X-Consul-Token"] = self._config.token
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=POOL_SIZE, max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None, raw: bool = False) -> Any:
        return callback(self.request("GET", path, params, headers=headers, raw=raw))

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return callback(self.request("PUT", path, params, data=data, headers=headers))

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return callback(self.request("POST", path, params, data=data, headers=headers))

    def delete(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return callback(self.request("DELETE", path, params, data=data, headers=headers))

    def close(self) -> None:
        """Ends the idle connections."""
        self.session.close()

    def request(
        self,
        method: str,
        path: str,
        params: Any = None,
        *,
        data: str | bytes = "",
        headers: Mapping[str, str] | None = None,
        read_timeout: float | None = None,
        raw: bool = False,
    ) -> consul.base.Response:
        """Sends one request and returns its reply; raises one of our errors for any status from 300 except a 404.

        What a 404 means is the caller's to say. `path` holds no query; its segments are quoted here. A `token` among `params` moves into the header.
        """
        pairs = [(key, value) for key, value in (params.items() if isinstance(params, dict) else params or ())]
        sent_headers = dict(headers or {})
        for key, value in pairs:
            if key == "token" and value:
                sent_headers["X-Consul-Token"] = str(value)
        pairs = [(key, value) for key, value in pairs if key != "token"]
        url = self.base_uri + _quoted(path) + (f"?{urlencode(pairs)}" if pairs else "")
        timeout = (self._config.connect_timeout, read_timeout or self._config.read_timeout)
        try:
            response = self.session.request(
                method, url, data=data or None, headers=sent_headers, timeout=timeout, allow_redirects=False
            )
            response.encoding = "utf-8"
        except requests.RequestException as error:
            raise ConsulUnavailableError(f"Consul at {self.base_uri} {_what_happened(error)}.") from error
        _raise_for_status(response, what=f"{method} {path}", where=self.base_uri)
        return consul.base.Response(response.status_code, response.headers, response.content if raw else response.text)


class ConsulApi(consul.Consul):
    """Everything that Registry Admin says to one Consul agent. Safe to share between threads.

    Every method raises ConsulUnavailableError (try again later), ConsulRefusedError (don't) or InvalidValueError
    (nothing was sent). python-consul's own endpoints (`agent`, `catalog`, `kv`, …) work as usual, over the same transport.
    """

    def __init__(self, config: ConsulConfig | None = None) -> None:
        # Not super().__init__: it reads the environment by itself, which overrides what it was given and fails on a URL.
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

    def register(self, spec: ServiceSpec, *, marks: Mapping[str, str], passing: bool = False) -> None:
        """Registers or updates an instance on the agent. Status of its checks and maintenance mode stay as they are.

        `replace-existing-checks` is not used: with it an instance silently leaves maintenance mode.
        """
        validation.meta(marks, "marks")
        self.refuse_own_port(spec.address, spec.port)
        self._put(["agent", "service", "register"], data=json.dumps(spec.payload(marks=marks, passing=passing)))

    def refuse_own_port(self, address: str, port: int) -> None:
        """Raises InvalidValueError where a check would make Consul's agent call its own API."""
        host = self.config.host
        if port == self.config.port and (address == host or (_is_loopback(address) and _is_loopback(host))):
            raise InvalidValueError("port", port, "this is Consul's own API; a check must not be pointed at it")

    def deregister(self, service_id: str) -> None:
        """Takes an instance off the agent; one that isn't there is as good as removed (200 before Consul 1.17, then 404)."""
        self._put(["agent", "service", "deregister", validation.service_id(service_id)], missing_is_fine=True)

    def deregister_check(self, check_id: str) -> None:
        """Takes a single check off the agent."""
        self._put(["agent", "check", "deregister", validation.check_id(check_id)], missing_is_fine=True)

    def set_maintenance(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        """Puts an instance into maintenance mode, or takes it out."""
        params = [("enable", "true" if enable else "false"), *([("reason", reason)] if reason else [])]
        self._put(["agent", "service", "maintenance", validation.service_id(service_id)], params)

    def update_ttl(self, check_id: str, status: str, *, output: str = "") -> None:
        """Reports a TTL check as `passing`, `warning` or `critical`."""
        if status not in ("passing", "warning", "critical"):
            raise InvalidValueError("status", status, "give 'passing', 'warning' or 'critical'")
        body = json.dumps({"Status": status, "Output": output})
        self._put(["agent", "check", "update", validation.check_id(check_id)], data=body)

    # -- reading ------------------------------------------------------------------------------------------------------

    def agent_instances(self) -> dict[str, ServiceInstance]:
        """All that is registered on this agent, with its checks, by instance ID: two reads, however many there are."""
        services = self._read(["agent", "services"], shape=dict).data
        checks: dict[str, list[CheckResult]] = {}
        for raw in self._read(["agent", "checks"], shape=dict).data.values():
            if isinstance(raw, dict) and raw.get("ServiceID"):
                checks.setdefault(str(raw["ServiceID"]), []).append(CheckResult.from_consul(raw))
        return {
            service_id: ServiceInstance.from_agent(raw, tuple(checks.get(service_id, ())))
            for service_id, raw in services.items()
        }

    def agent_instance(self, service_id: str) -> ServiceInstance | None:
        """One instance as registered on this agent, without its checks, or None."""
        path = ["agent", "service", validation.service_id(service_id)]
        raw = self._read(path, shape=dict, missing={}).data
        return ServiceInstance.from_agent(raw, ()) if raw else None

    def node_name(self) -> str:
        """The agent's node name; also the cheapest proof that an agent answers and that the token may read it."""
        config = self._read(["agent", "self"], shape=dict).data.get("Config") or {}
        return str(config.get("NodeName", "")) if isinstance(config, dict) else ""

    def leader(self) -> str:
        """The cluster leader's address, or nothing while there is none."""
        return str(self._read(["status", "leader"], shape=str).data)

    def services(self, *, index: int = 0, wait_s: float = 0) -> Reply[dict[str, list[str]]]:
        """All service names in the catalog with their tags. Blocks up to `wait_s` seconds where `index` is given."""
        return self._read(["catalog", "services"], shape=dict, index=index, wait_s=wait_s)

    def health_states(self, *, index: int = 0, wait_s: float = 0) -> Reply[list[dict[str, Any]]]:
        """Every check in the catalog as Consul shows it. Blocks up to `wait_s` seconds where `index` is given."""
        return self._read(["health", "state", "any"], shape=list, index=index, wait_s=wait_s)

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
        found = [ServiceInstance.from_health(entry) for entry in reply.data]
        return Reply(found, reply.index, reply.known_leader, reply.filtered_by_acls)

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
            text = _one_line(response.body) or "not found"
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
        missing: Any = None,
    ) -> Reply[Any]:
        pairs = [*params, *([("stale", "")] if stale else [])]
        read_timeout = None
        if index:
            wait_s = min(wait_s, MAX_BLOCKING_WAIT_S)
            pairs += [("index", str(max(index, 1))), ("wait", f"{int(wait_s * 1000)}ms")]
            # Consul adds up to wait/16 of its own, so that blocking queries don't all return together.
            read_timeout = wait_s + wait_s / 16 + self.config.read_timeout
        response = self.http.request("GET", _path(segments), pairs, read_timeout=read_timeout)
        if response.code == 404 and missing is not None:
            return Reply(missing, 0, True, False)
        return _reply(response, shape=shape, what=_path(segments), where=self.config.url)


def _reply(response: consul.base.Response, *, shape: type, what: str, where: str) -> Reply[Any]:
    refusal = f"Consul at {where} gave an invalid reply to {what}"
    if response.code == 404:
        raise InvalidReplyError(f"{refusal}: 404; is this really a Consul agent?")
    try:
        data = json.loads(response.body)
    except (ValueError, RecursionError):
        raise InvalidReplyError(f"{refusal}: not JSON.") from None
    if not isinstance(data, shape):
        raise InvalidReplyError(f"{refusal}: {type(data).__name__} where {shape.__name__} was expected.")
    index = response.headers.get("X-Consul-Index", "0")
    return Reply(
        data,
        int(index) if index.isascii() and index.isdigit() else 0,
        response.headers.get("X-Consul-KnownLeader", "true") != "false",
        response.headers.get("X-Consul-Results-Filtered-By-ACLs", "false") == "true",
    )


def _path(segments: Iterable[str]) -> str:
    return "/v1/" + "/".join(segments)


def _quoted(path: str) -> str:
    """The path with each segment quoted. A dot segment would reach another endpoint, so it never leaves here."""
    segments = path.split("/")
    if segments[:2] != ["", "v1"] or any(segment in ("", ".", "..") for segment in segments[1:]):
        raise InvalidValueError("path", path, "a name or ID must not be empty, '.', '..' or hold them between slashes")
    return "/".join(quote(segment, safe=":@") for segment in segments)


def _is_loopback(address: str) -> bool:
    return address in ("localhost", "::1") or address.startswith("127.")


def _what_happened(error: requests.RequestException) -> str:
    """In a person's words. The exception's own text is left out: it can hold the URL and much noise."""
    if isinstance(error, requests.exceptions.SSLError):
        return "can't be trusted: its TLS certificate was refused (is CONSUL_CACERT right?)"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "didn't accept a connection in time"
    if isinstance(error, requests.exceptions.Timeout):
        return "didn't answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        cause = "refused the connection" if "refused" in str(error).lower() else "can't be reached"
        return "didn't answer in time" if "timed out" in str(error).lower() else cause
    return f"gave a broken reply ({type(error).__name__})"


def _raise_for_status(response: requests.Response, *, what: str, where: str) -> None:
    status = response.status_code
    if status < 300 or status == 404:
        return
    text = _one_line(response.text)
    if status in (401, 403):
        need = _permission(what)
        raise ConsulPermissionError(
            f"Consul at {where} denied {what}: {text or 'permission denied'}. The token needs {need}.", status=status
        )
    if 300 <= status < 400:
        raise InvalidReplyError(f"Consul at {where} answered {what} with a redirect, which an agent never does.")
    if status >= 500 or status == 429:
        raise ConsulUnavailableError(
            f"Consul at {where} failed to answer {what} ({status}): {text or 'no reason given'}."
        )
    raise ConsulRefusedError(
        f"Consul at {where} refused {what} ({status}): {text or 'no reason given'}.", status=status
    )


def _one_line(text: str) -> str:
    """A reply's text, fit for an error message."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:300])


_PERMISSIONS: Sequence[tuple[str, str]] = (
    ("PUT /v1/agent/", "`service:write` for this service"),
    ("GET /v1/agent/self", "`agent:read`"),
    ("GET ", "`service:read` and `node:read`"),
)


def _permission(what: str) -> str:
    return next((need for start, need in _PERMISSIONS if what.startswith(start)), "more permissions")
