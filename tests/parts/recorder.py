"""An HTTP proxy in front of an agent that notes what is asked and answered, and that can spoil chosen answers."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from registry_admin.consul import ConsulConfig
from tests.parts.agent import ConsulAgent
from tests.parts.service import HttpService, ReceivedRequest

REGISTER, DEREGISTER = "/v1/agent/service/register", "/v1/agent/service/deregister/"
_LONGEST_WAIT_S = 660.0  # a blocking query's, with what Consul adds to it
Answer = tuple[int, dict[str, str], bytes]
_NOT_PASSED_ON = frozenset({"accept-encoding", "connection", "content-length", "date", "server", "transfer-encoding"})


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that has been answered: `at` is when it came (monotonic seconds), `status` what the client got."""

    method: str
    path: str
    body: bytes
    at: float
    seconds: float
    status: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Fault for the requests that it matches: see `RecordingProxy.inject_fault`."""

    pattern: str
    containing: str
    status: int | None
    body: bytes | None
    headers: Mapping[str, str]
    delay_s: float

    def fits(self, request: ReceivedRequest) -> bool:
        result = re.search(self.pattern, f"{request.method} {request.path}")
        return bool(result) and self.containing.encode() in request.body


class RecordingProxy:
    """`exchanges` holds what was asked of `agent` through it. `.config` and `.env` are the agent's, but lead here.

    With `choose`, it is a load balancer: `choose()` is the agent for each request.
    """

    def __init__(self, agent: ConsulAgent, *, choose: Callable[[], ConsulAgent] | None = None) -> None:
        self._agent = agent
        self.choose = choose or (lambda: agent)
        self.exchanges: list[Exchange] = []
        self._faults: tuple[Fault, ...] = ()
        self._upstream: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.reply_timeout_s = _LONGEST_WAIT_S  # a reply that takes longer is broken off
        self._server = HttpService(answer=self._answer)

    def start(self) -> RecordingProxy:
        self._closing.clear()
        self._server.start()
        return self

    def stop(self) -> None:
        """Ends it, and every request that is under way."""
        self._closing.set()
        self._server.stop()
        with self._lock:
            for connection in self._upstream:
                with suppress(OSError, AttributeError):
                    connection.sock.shutdown(2)

    @property
    def host(self) -> str:
        return self._server.host

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def config(self) -> ConsulConfig:
        return ConsulConfig(host=self.host, port=self.port, token=self._agent.token)

    @property
    def env(self) -> dict[str, str]:
        return self._agent.env | {"CONSUL_HTTP_ADDR": self.url}

    def inject_fault(
        self,
        pattern: str,
        *,
        containing: str = "",
        status: int | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        delay_s: float = 0,
    ) -> Fault:
        """Spoils requests in whose `METHOD /path?query` this pattern is found, and whose body holds `containing`.

        They wait for `delay_s`. Then, with a `status`, they are answered so without reaching the agent; without one the
        agent is asked. `body` and `headers` replace those of the reply. The latest fault that fits is the one.
        """
        fault = Fault(
            pattern=pattern, containing=containing, status=status, body=body, headers=headers or {}, delay_s=delay_s
        )
        self._faults = (fault, *self._faults)
        return fault

    def restore(self, fault: Fault | None = None) -> None:
        """Ends this fault, or all of them."""
        self._faults = tuple(item for item in self._faults if fault is not None and item is not fault)

    def exchanges_matching(self, pattern: str) -> list[Exchange]:
        """Returns the exchanges whose `METHOD /path?query` matches this regular expression."""
        return [item for item in list(self.exchanges) if re.search(pattern, f"{item.method} {item.path}")]

    def registrations(self) -> Counter[str]:
        """Returns the number of successful registrations by instance ID."""
        done = (item for item in self.exchanges_matching(f"^PUT {REGISTER}") if item.status == 200)
        return Counter(str(json.loads(item.body)["ID"]) for item in done)

    def deregistrations(self) -> Counter[str]:
        """Returns the number of successful deregistrations by instance ID, as it stands in the URL."""
        done = (item for item in self.exchanges_matching(f"^PUT {DEREGISTER}") if item.status == 200)
        return Counter(item.path.removeprefix(DEREGISTER) for item in done)

    def forget(self) -> None:
        """Begins to record anew."""
        self.exchanges.clear()

    def _answer(self, handler: BaseHTTPRequestHandler, request: ReceivedRequest) -> None:
        at = time.monotonic()
        fault = next((item for item in self._faults if item.fits(request)), None)
        if fault is not None and fault.delay_s:
            self._closing.wait(fault.delay_s)
        if fault is not None and fault.status is not None:
            status, headers, body = fault.status, dict[str, str](), b""
        else:
            try:
                status, headers, body = self.ask(request)
            except (OSError, http.client.HTTPException):  # the agent is away: so are we
                handler.close_connection = True
                return
        if fault is not None:
            spoilt = {name.lower() for name in fault.headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in spoilt} | dict(
                fault.headers
            )
            body = body if fault.body is None else fault.body
        self.exchanges.append(
            Exchange(
                method=request.method,
                path=request.path,
                body=request.body,
                at=at,
                seconds=time.monotonic() - at,
                status=status,
            )
        )
        handler.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def upstream(self) -> tuple[str, int]:
        """Returns the address that a request is passed on to."""
        agent = self.choose()
        return agent.host, agent.port

    def ask(self, request: ReceivedRequest) -> Answer:
        """Returns the agent's status, headers and body."""
        connection = http.client.HTTPConnection(*self.upstream(), timeout=self.reply_timeout_s)
        with self._lock:
            self._upstream.add(connection)
        try:
            sent = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON}
            connection.request(request.method, request.path, body=request.body or None, headers=sent)
            reply = connection.getresponse()
            body = reply.read()
            kept = {name: value for name, value in reply.getheaders() if name.lower() not in _NOT_PASSED_ON}
            return reply.status, kept, body
        finally:
            with self._lock:
                self._upstream.discard(connection)
            connection.close()
