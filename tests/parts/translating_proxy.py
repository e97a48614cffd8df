"""A proxy in front of an agent that answers as another, newer version of Consul would.

What it changes is declared in tests/parts/version_profile.py. An answer that is already as that version gives it stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import requests

from tests.parts.agent import ConsulAgent
from tests.parts.recorder import REGISTER, Answer, RecordingProxy
from tests.parts.service import ReceivedRequest
from tests.parts.version_profile import CHECK_OPTIONS, SERVICE_FIELDS, VersionProfile

TOKEN = "X-Consul-Token"
KNOWN_LEADER, BACKEND = "X-Consul-Knownleader", "X-Consul-Query-Backend"
FILTERED, DEFAULT_POLICY = "X-Consul-Results-Filtered-By-Acls", "X-Consul-Default-Acl-Policy"
PLAIN = "text/plain; charset=utf-8"
_CHANGE = re.compile(r"/v1/agent/(service|check)/(deregister|maintenance|update)/([^?]+)")
_LIMITED = re.compile(r"/v1/agent/(service/register|check/register|check/update/)")


class TranslatingProxy(RecordingProxy):
    """Passes requests on to `agent`, and translates its answers into those of the version of `profile`."""

    def __init__(self, agent: ConsulAgent, profile: VersionProfile) -> None:
        super().__init__(agent)
        self.profile = profile
        self.reply_timeout_s = profile.reply_timeout_s or self.reply_timeout_s
        self._new_fields: dict[str, dict[str, Any]] = {}  # by service ID: what the agent itself would forget

    @property
    def version(self) -> tuple[int, int]:
        return self.profile.version

    def upstream(self) -> tuple[str, int]:
        return self._agent.host, self._agent.own_port

    def ask(self, request: ReceivedRequest) -> Answer:
        size, limit = len(request.body), self.profile.max_body
        if limit is not None and size > limit and _LIMITED.match(request.path):
            text = f"Request body({size} bytes) too large, max size: {limit} bytes. See the documentation."
            return 413, self._headers({"Content-Type": PLAIN}, request), text.encode()
        unknown = self._unknown_id(request) if self.profile.refuses_unknown_ids else ""
        status, headers, body = super().ask(self._without_new_fields(request))
        if unknown and status in (200, 404, 500):
            status, body = 404, unknown.encode()
        elif status == 200 and request.method == "PUT":
            self._remember(request)
        elif status == 403 and self.profile.names_token:
            body = self._denial(request, body.decode()).encode()
        elif status == 200:
            headers = headers | self._read_headers(request, body)
            body = self._with_new_fields(request, body)
        if status >= 400:
            headers["Content-Type"] = PLAIN
        return status, self._headers(headers, request), body

    # -- headers ------------------------------------------------------------------------------------------------------

    def _headers(self, headers: dict[str, str], request: ReceivedRequest) -> dict[str, str]:
        titled = {name.title(): value for name, value in headers.items()}
        if self.profile.tells_default_policy:
            titled.setdefault(DEFAULT_POLICY, "deny" if self._agent.management_token else "allow")
        if titled.get(BACKEND) == "streaming":
            titled |= {KNOWN_LEADER: "false"}
            titled.pop(FILTERED, None)
        return titled

    def _read_headers(self, request: ReceivedRequest, body: bytes) -> dict[str, str]:
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        added = {}
        if self.profile.streams and path.startswith("/v1/health/service/"):
            is_blocking = int(query.get("index", ["0"])[0]) > 0
            added[BACKEND] = "streaming" if is_blocking else "blocking-query"
        if self.profile.tells_filtering and self._is_filtered(request, body):
            added[FILTERED] = "true"
        return added

    def _is_filtered(self, request: ReceivedRequest, body: bytes) -> bool:
        """Returns whether the agent tells its management more than whoever sent a token with this request."""
        management, token = self._agent.management_token, request.headers.get(TOKEN)
        if not management or not token or token == management or request.method != "GET":
            return False
        reply = self._ask_as(management, request.path)
        return reply.ok and _size(reply.content) > _size(body)

    # -- refusals -----------------------------------------------------------------------------------------------------

    def _unknown_id(self, request: ReceivedRequest) -> str:
        """Returns the refusal of a change of what isn't registered, or nothing."""
        change = _CHANGE.match(request.path) if request.method == "PUT" else None
        if change is None:
            return ""
        kind, name = change[1], unquote(change[3])
        if name in self._registered(f"{kind}s"):
            return ""
        return f'Unknown {kind} ID "{name}". Ensure that the {kind} ID is passed, not the {kind} name.'

    def _denial(self, request: ReceivedRequest, text: str) -> str:
        permission = self._permission(request)
        if not text.startswith("Permission denied") or "lacks permission" in text or not permission:
            return text
        token = request.headers.get(TOKEN)
        if not token:
            holder = ": anonymous token"
            end = ". The anonymous token is used implicitly when a request does not specify a token."
        else:
            holder = f": token with AccessorID '{self._ask_as(token, '/v1/acl/token/self').json()['AccessorID']}'"
            end = ""
        return f"Permission denied{holder} lacks permission {permission}{end}"

    def _permission(self, request: ReceivedRequest) -> str:
        """Returns the permission that a request needs, as a denial tells it: `'service:write' on "api"`."""
        path = urlsplit(request.path).path
        if path == "/v1/agent/self":
            return f"'agent:read' on \"{self._agent.request('GET', path)['Config']['NodeName']}\""
        if path == REGISTER:
            return f"'service:write' on \"{json.loads(request.body)['Name']}\""
        if change := _CHANGE.match(path):
            registered = self._registered(f"{change[1]}s").get(unquote(change[3]), {})
            return f"'service:write' on \"{registered.get('ServiceName') or registered.get('Service')}\""
        return ""

    def _registered(self, kind: str) -> dict[str, Any]:
        return dict(self._agent.request("GET", f"/v1/agent/{kind}"))

    def _ask_as(self, token: str, path: str) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(self._agent.own_url + path, headers={TOKEN: token}, timeout=10)

    # -- fields of services -------------------------------------------------------------------------------------------

    def _remember(self, request: ReceivedRequest) -> None:
        """Keeps the fields of a registration that the agent doesn't know, and forgets those of a former one."""
        change = _CHANGE.match(request.path)
        if change and change[2] == "deregister":
            self._new_fields.pop(unquote(change[3]), None)
        elif request.path.startswith(REGISTER):
            body = json.loads(request.body)
            fields = {name: body[name] for name in self._new_names() if body.get(name)}
            self._new_fields[body.get("ID") or body["Name"]] = fields

    def _without_new_fields(self, request: ReceivedRequest) -> ReceivedRequest:
        """Returns the request as the agent takes it: any agent refuses fields that it doesn't know."""
        if not request.path.startswith(REGISTER):
            return request
        try:
            body = json.loads(request.body)
        except ValueError:
            return request
        known = {name: value for name, value in body.items() if name not in self._new_names()}
        known |= {name: self._known_check(known[name]) for name in ("Check", "Checks") if known.get(name)}
        return replace(request, body=json.dumps(known).encode())

    def _known_check(self, check: Any) -> Any:
        """Returns a check's definition, or several, without the options that the agent doesn't know."""
        if isinstance(check, list):
            return [self._known_check(item) for item in check]
        new = self._newer(CHECK_OPTIONS)
        return {name: value for name, value in check.items() if name not in new}

    def _new_names(self) -> list[str]:
        return self._newer(SERVICE_FIELDS)

    def _newer(self, names: Mapping[str, tuple[int, int]]) -> list[str]:
        """Returns those that this version knows and the agent doesn't."""
        return [name for name, since in names.items() if self._agent.own_version < since <= self.profile.version]

    def _with_new_fields(self, request: ReceivedRequest, body: bytes) -> bytes:
        if request.method != "GET" or not re.match(r"/v1/(agent|health|catalog)/", request.path):
            return body
        try:
            data = json.loads(body)
        except ValueError:
            return body
        path = urlsplit(request.path).path
        if path == "/v1/agent/self":
            data["Config"]["Version"] = f"{self.profile.name}.0"
        services = list(_services(path, data))
        for service in services:
            service.update(self._new_fields.get(service["ID"], {}))
            if self.profile.knows_peers:
                name, value = ("Datacenter", "dc1") if path.startswith("/v1/agent/") else ("PeerName", "")
                service.setdefault(name, value)
        return json.dumps(data).encode() if services or path == "/v1/agent/self" else body


def _services(path: str, data: Any) -> Iterator[dict[str, Any]]:
    """Yields the services in the reply to a read."""
    if path == "/v1/agent/services":
        yield from data.values()
    elif path.startswith("/v1/agent/service/"):
        yield data
    elif path.startswith("/v1/catalog/node/") and data:
        yield from data["Services"].values()
    elif path.startswith("/v1/health/service/"):
        yield from (entry["Service"] for entry in data)


def _size(body: bytes) -> int:
    """Returns how many entries a reply has."""
    data = json.loads(body)
    if isinstance(data, dict) and "Services" in data:
        data = data["Services"]
    return len(data or ())
