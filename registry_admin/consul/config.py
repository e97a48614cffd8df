"""Address, token and TLS of Consul: read from the environment once, validated, then passed around as a value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from registry_admin.consul import validation
from registry_admin.consul.addresses import url_host
from registry_admin.consul.check_targets import ANY_TARGET, TargetRules
from registry_admin.consul.token_file import read_token
from registry_admin.errors import ConfigurationError, InvalidValueError

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, kw_only=True)
class ConsulConfig:
    """Address, token and TLS of a Consul agent, and where its checks may be pointed.

    Timeouts are in seconds. The token is never part of the repr.

    `token_file` takes the place of `token`: it is read anew whenever it changes.
    """

    host: str = "127.0.0.1"
    port: int = 8500
    scheme: str = "http"
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    verify: bool | str = True
    cert: str | tuple[str, str] | None = None
    connect_timeout: float = 2.0
    read_timeout: float = 10.0
    target_rules: TargetRules = ANY_TARGET

    def __post_init__(self) -> None:
        validation.address(self.host, "host")
        validation.port(self.port)
        if self.scheme not in ("http", "https"):
            raise InvalidValueError("scheme", self.scheme, "give 'http' or 'https'")
        if self.token is not None:
            validation.acl_token(self.token)
        for name in ("connect_timeout", "read_timeout"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise InvalidValueError(name, seconds, "give a number of seconds above 0")

    @property
    def has_token(self) -> bool:
        """True if requests carry a token."""
        return bool(self.token or self.token_file)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:8500`"""
        return f"{self.scheme}://{url_host(self.host)}:{self.port}"

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        read_timeout: float = 10.0,
        target_rules: TargetRules = ANY_TARGET,
    ) -> ConsulConfig:
        """Reads Consul's own variables (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …), else CONSUL_HOST and CONSUL_PORT.

        Raises ConfigurationError that names the variable. The source of the names and their meaning:
        https://developer.hashicorp.com/consul/commands#environment-variables
        """
        host, port_text, scheme = (
            environ.get("CONSUL_HOST") or "127.0.0.1",
            environ.get("CONSUL_PORT") or "8500",
            "http",
        )
        source = "CONSUL_HOST or CONSUL_PORT"
        if environ.get("CONSUL_HTTP_ADDR"):
            source = "CONSUL_HTTP_ADDR"
            host, port_text, scheme = _split_address(environ["CONSUL_HTTP_ADDR"], default_port=port_text)
        if environ.get("CONSUL_HTTP_SSL"):
            scheme = "https" if _boolean(environ, "CONSUL_HTTP_SSL") else "http"
        verify: bool | str = _boolean(environ, "CONSUL_HTTP_SSL_VERIFY", default=True)
        if verify and environ.get("CONSUL_CACERT"):
            verify = _readable(environ, "CONSUL_CACERT")
        cert: str | tuple[str, str] | None = None
        if environ.get("CONSUL_CLIENT_CERT"):
            cert = _readable(environ, "CONSUL_CLIENT_CERT")
            if environ.get("CONSUL_CLIENT_KEY"):
                cert = (cert, _readable(environ, "CONSUL_CLIENT_KEY"))
        elif environ.get("CONSUL_CLIENT_KEY"):
            raise ConfigurationError("CONSUL_CLIENT_KEY: give CONSUL_CLIENT_CERT too; a key alone is of no use")
        token_file = environ.get("CONSUL_HTTP_TOKEN_FILE") or None
        if token_file:
            read_token(token_file)  # a mistake is to be known at the start
        try:
            return cls(
                host=validation.address(host, "host"),
                port=validation.port(int(port_text) if re.fullmatch(r"[0-9]{1,5}", port_text) else port_text),
                scheme=scheme,
                token=None if token_file else environ.get("CONSUL_HTTP_TOKEN") or None,
                token_file=token_file,
                verify=verify,
                cert=cert,
                read_timeout=read_timeout,
                target_rules=target_rules,
            )
        except InvalidValueError as error:
            if error.field == "token":
                source = "CONSUL_HTTP_TOKEN"
            raise ConfigurationError(f"{source}: {error}") from error


def _split_address(value: str, *, default_port: str) -> tuple[str, str, str]:
    try:
        parts = urlsplit(value if "://" in value else f"//{value}", scheme="http")
        port_number = parts.port
    except ValueError:  # the value isn't shown: it may hold a user's password
        raise ConfigurationError(
            "CONSUL_HTTP_ADDR: this is no host:port; the port is a number from 1 to 65535"
        ) from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"CONSUL_HTTP_ADDR: only http and https are supported, not {parts.scheme!r}")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment or not parts.hostname:
        raise ConfigurationError("CONSUL_HTTP_ADDR: give host:port or http(s)://host:port and nothing else")
    return parts.hostname, default_port if port_number is None else str(port_number), parts.scheme


def _boolean(environ: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    try:
        return _BOOLEANS[text]
    except KeyError:
        raise ConfigurationError(f"{name}: give true or false, not {text!r}") from None


def _readable(environ: Mapping[str, str], name: str) -> str:
    path = Path(environ[name])
    if not path.is_file():
        raise ConfigurationError(f"{name}: there is no file {str(path)!r}")
    return str(path)
