"""A real Consul agent on ports of its own: in memory, or with a data folder as in production."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import quote

import requests

from registry_admin.consul import ConsulConfig
from tests.parts.tls import Certificates
from tests.parts.waiting import free_ports, wait_until

ROOT = Path(__file__).parent.parent.parent
PORTS = ("server", "serf_lan", "serf_wan")  # beside the one for HTTP or HTTPS


def consul_binary() -> Path:
    """The Consul to test against: $CONSUL_BIN, or the one that `scripts/consul --path` finds or fetches."""
    if os.environ.get("CONSUL_BIN"):
        return Path(os.environ["CONSUL_BIN"])
    result = subprocess.run([ROOT / "scripts" / "consul", "--path"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(result.stdout.strip())


class Front(Protocol):
    """A proxy before an agent."""

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...

    @property
    def version(self) -> tuple[int, int]: ...

    def start(self) -> Any: ...

    def stop(self) -> None: ...


class ConsulAgent:
    """A Consul agent: `start`, `stop` (SIGKILL) and `start` again on the same ports, `freeze` and `thaw`.

    It forgets everything when it ends, unless it is `durable`: then it has a data folder, which `lose_state` empties.
    `settings` is Consul's own configuration, or a function that makes it for a version; it is laid over ours. With
    `management_token`, ACLs are on and deny by default. With `tls`, it speaks HTTPS only and wants a client's
    certificate. `.config` and `.env` carry `token`, which is the management token unless another is set.

    With `make_front`, a proxy stands before each agent that speaks plain HTTP, and `port`, `url` and `version` are the
    proxy's; `own_port`, `own_url` and `own_version` are always the agent's.
    """

    make_front: ClassVar[Callable[[ConsulAgent], Front] | None] = None

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any] | Callable[[tuple[int, int]], Mapping[str, Any]] | None = None,
        management_token: str | None = None,
        durable: bool = False,
        tls: Certificates | None = None,
        binary: Path | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.token = self.management_token = management_token
        self.ports: Mapping[str, int] = {}
        self.is_frozen = False
        self._tls, self._durable = tls, durable
        self._binary, self._folder = binary or consul_binary(), folder
        self._process: subprocess.Popen[bytes] | None = None
        make_front = type(self).make_front
        self._front = make_front(self) if make_front and tls is None else None
        self._settings = dict(settings(self.own_version) if callable(settings) else settings or {})

    @property
    def port(self) -> int:
        """Port of its HTTP or HTTPS API; 0 before the first start."""
        return self._front.port if self._front else self.own_port

    @property
    def own_port(self) -> int:
        return self.ports.get("https" if self._tls else "http", 0)

    @property
    def url(self) -> str:
        return self._front.url if self._front else self.own_url

    @property
    def own_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.own_port}"

    @property
    def config(self) -> ConsulConfig:
        """For ConsulApi and ServiceRegistry."""
        if self._tls is None:
            return ConsulConfig(host=self.host, port=self.port, token=self.token)
        return ConsulConfig(
            host=self.host,
            port=self.port,
            scheme="https",
            token=self.token,
            verify=self._tls.ca,
            cert=self._tls.client,
        )

    @property
    def env(self) -> dict[str, str]:
        """For processes that read Consul's own variables, Consul's command line included."""
        token = {"CONSUL_HTTP_TOKEN": self.token} if self.token else {}
        return {"CONSUL_HTTP_ADDR": self.url} | token | (self._tls.env if self._tls else {})

    @property
    def version(self) -> tuple[int, int]:
        """Version that it answers as: `(1, 17)`."""
        return self._front.version if self._front else self.own_version

    @functools.cached_property
    def own_version(self) -> tuple[int, int]:
        message = self.command("version")
        result = re.search(r"v(\d+)\.(\d+)", message)
        assert result, f"what Consul is this? {message}"
        return int(result[1]), int(result[2])

    def command(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Runs Consul's own command line and returns what it says."""
        called = [self._binary, *arguments]
        return subprocess.run(
            called, stdout=subprocess.PIPE, text=True, check=True, cwd=cwd, env=os.environ | self.env
        ).stdout

    @property
    def pid(self) -> int:
        assert self._process, "the agent is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True if it was started, and neither stopped nor frozen since."""
        return self._process is not None and not self.is_frozen

    def start(self) -> ConsulAgent:
        """Starts it and waits until there is a leader and it knows its own node."""
        self.launch()
        return self.await_ready()

    def launch(self) -> None:
        """Starts it without waiting."""
        if not self.ports:
            self._configure()
        mode = ["-data-dir", self._data] if self._durable else ["-dev"]
        with self._log.open("ab") as log:
            arguments = [self._binary, "agent", *mode, "-config-file", self._folder / "agent.json"]
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        if self._front:
            self._front.start()

    def await_ready(self) -> ConsulAgent:
        """Waits until it sees a leader and its node's catalog."""
        wait_until(self._is_ready, 60, "the Consul agent to be ready")
        return self

    def stop(self) -> None:
        """Ends it at once; one that isn't `durable` has lost everything then."""
        if self._process:
            if self._front:
                self._front.stop()
            self._process.kill()
            self._process.wait()
            self._process = None
            self.is_frozen = False

    def lose_state(self) -> None:
        """Ends it and empties its data folder, as on a machine that was replaced."""
        self.stop()
        shutil.rmtree(self._data, ignore_errors=True)

    def freeze(self) -> None:
        """Stops the process where it stands: connections stay open and get no answer."""
        os.kill(self.pid, signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.is_frozen = False

    def request(self, method: str, path: str, *, body: object = None) -> Any:
        """Speaks to the agent without the code under test, as management; returns the decoded reply."""
        headers = {"X-Consul-Token": self.management_token} if self.management_token else {}
        with requests.Session() as session:
            session.trust_env = False
            if self._tls:
                session.verify, session.cert = self._tls.ca, self._tls.client
            response = session.request(method, self.own_url + path, json=body, headers=headers, timeout=10)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        try:
            return response.json()
        except ValueError:
            return response.text

    def forget_services(self) -> None:
        """Takes everything off the agent that a test has registered."""
        for service_id in self.request("GET", "/v1/agent/services"):
            self.request("PUT", f"/v1/agent/service/deregister/{quote(service_id, safe='')}")
        for check_id in self.request("GET", "/v1/agent/checks"):
            if check_id != "_node_maintenance":
                self.request("PUT", f"/v1/agent/check/deregister/{quote(check_id, safe='')}")

    def make_token(self, rules: str) -> str:
        """A new ACL token that may do what `rules` (Consul's policy language) say."""
        name = f"test-{os.urandom(8).hex()}"
        self.request("PUT", "/v1/acl/policy", body={"Name": name, "Rules": rules})
        return str(self.request("PUT", "/v1/acl/token", body={"Policies": [{"Name": name}]})["SecretID"])

    @property
    def _log(self) -> Path:
        return self._folder / "agent.log"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _configure(self) -> None:
        names = ["https" if self._tls else "http", *PORTS]
        ports = {"http": -1} | dict(zip(names, free_ports(len(names)), strict=True)) | {"dns": -1, "grpc": -1}
        if self.own_version >= (1, 14):
            ports["grpc_tls"] = -1
        ports |= self._settings.get("ports", {})
        settings: dict[str, Any] = {
            "bind_addr": self.host,
            "client_addr": self.host,
            "ports": ports,
            "log_level": "warn",
            # By default 200, which the watches of a quick series of tests can reach: the agent then drops connections.
            "limits": {"http_max_conns_per_client": 2000},
        }
        if self.management_token:
            first = "initial_management" if self.own_version >= (1, 11) else "master"
            tokens = {first: self.management_token, "agent": self.management_token}
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": tokens}
        if self._durable:
            settings |= {"server": True, "bootstrap_expect": 1, "performance": {"raft_multiplier": 1}}
        if self._tls:
            settings |= self._tls.settings(self.own_version)
        settings |= self._settings | {"ports": ports}
        (self._folder / "agent.json").write_text(json.dumps(settings))
        self.ports = ports

    def _is_ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"the Consul agent ended: {self._log.read_text()[-2000:]}"
        try:
            return bool(self.request("GET", "/v1/status/leader") and self.request("GET", "/v1/catalog/nodes"))
        except (requests.RequestException, AssertionError):
            return False
