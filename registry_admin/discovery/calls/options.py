"""Options of clients and calls, and the policy that a client makes of them."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from registry_admin.discovery.calls.policy import CallPolicy, CallReport, RecordCall
from registry_admin.discovery.http.body import Data, Params
from registry_admin.discovery.http.credentials import Auth, Cookies
from registry_admin.discovery.http.multipart import Files
from registry_admin.discovery.http.request import check_timeout
from registry_admin.discovery.instances.load_balancing import load_balancer
from registry_admin.errors import Attempt, InvalidValueError

TIMEOUT_S = 10.0
MAX_ATTEMPTS = 3


class CallOptions(TypedDict, total=False):
    """Options of a call, beside service, path and method.

    `params` go into the query; `data` is a form (a mapping or pairs), raw text or bytes, or a binary file that can
    seek, which is sent while it is read, from its position to its end; `json` is anything that JSON can hold; `files`,
    `auth` and `cookies` are as in `requests`, but for an `auth` that answers challenges; `host` is the virtual host to
    ask for; `timeout` is in seconds, for all attempts together; `tag` narrows the instances. `hedge=False`: never sent
    to a second instance while the first one is still at work. `stream=True`: the response is returned when its head has
    come, and its body is received while it is iterated, within the same time: see StreamedResponse.
    """

    hedge: bool
    stream: bool
    params: Params | None
    headers: Mapping[str, str] | None
    data: Data | None
    json: Any
    files: Files | None
    auth: Auth | None
    cookies: Cookies | None
    host: str | None
    timeout: float | None
    tag: str | None


class ClientOptions(TypedDict, total=False):
    """Options of a client, beside the registry. They hold for all of its calls.

    `timeout` is in seconds, for a whole call. `max_attempts` go to as many instances. `body_limit` is in bytes of a
    response. `verify` is a CA file for instances that speak HTTPS, or False. `balancing` is "power-of-two" (of two
    random instances the less busy and quicker one), "round-robin" or "random". `same_node_first` prefers instances on
    the node of the Consul agent. A GET, HEAD or OPTIONS without a response after `hedge_after` seconds (by default when
    it is later than almost all before it, half of its time at most) is also sent to a second instance, unless `hedge`
    is False. `on_attempt` and `on_call` are called with each attempt and each call, on the thread that made it.
    `report_calls=False` leaves the calls out of Registry Admin's map.
    """

    timeout: float
    max_attempts: int
    body_limit: int
    verify: bool | str
    balancing: str
    same_node_first: bool
    hedge: bool
    hedge_after: float | None
    on_attempt: Callable[[Attempt], None] | None
    on_call: Callable[[CallReport], None] | None
    report_calls: bool


def check_verify(verify: object) -> None:
    """Raises InvalidValueError unless `verify` is a boolean or a readable CA file.

    Run when a client is made: an unreadable file is no fault of an instance, and "" does not mean False.
    """
    if isinstance(verify, bool):
        return
    refusal = InvalidValueError("verify", verify, "give True, False, or the path of a file of CA certificates")
    if not isinstance(verify, str) or not verify:
        raise refusal
    try:
        ssl.create_default_context(cafile=verify)
    except (OSError, ValueError):
        raise refusal from None


def build_policy(options: ClientOptions, *, record_call: RecordCall | None) -> CallPolicy:
    """Returns the policy of a client with these options; raises InvalidValueError, which names the wrong one."""
    _check_types(options)
    attempts, hedge_after = options.get("max_attempts", MAX_ATTEMPTS), options.get("hedge_after")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise InvalidValueError("max_attempts", attempts, "give a whole number, at least 1")
    if hedge_after is not None and not (isinstance(hedge_after, int | float) and hedge_after > 0):
        raise InvalidValueError("hedge_after", hedge_after, "give seconds above 0, or None")
    return CallPolicy(
        load_balancer=load_balancer(options.get("balancing", "power-of-two")),
        max_attempts=attempts,
        hedge=options.get("hedge", True),
        hedge_after=hedge_after,
        on_attempt=options.get("on_attempt"),
        on_call=options.get("on_call"),
        record_call=record_call,
    )


def _check_types(options: ClientOptions) -> None:
    check_timeout(options.get("timeout", TIMEOUT_S))
    limit = options.get("body_limit", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidValueError("body_limit", limit, "give a number of bytes, at least 1")
    for name in ("hedge", "same_node_first", "report_calls"):
        if not isinstance(value := options.get(name, True), bool):
            raise InvalidValueError(name, value, "give True or False")
    for name in ("on_attempt", "on_call"):
        hook = options.get(name)
        if hook is not None and not callable(hook):
            raise InvalidValueError(name, hook, "give a function with one argument, or None")
