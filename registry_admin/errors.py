"""Every exception that a caller may catch, told apart by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from registry_admin.printable import escape_unprintable, safe_repr, to_single_line

MAX_ITEM, MAX_ITEMS = 500, 20  # characters of each instance in a message, and instances


class RegistryError(Exception):
    """Registry Admin could not do what it was asked.

    `type(error)(*error.args)` makes an equal one, with the same text: so do task queues that send errors as JSON.
    The text is always a single printable line, whatever names and outputs of others are in it.
    """

    def __init__(self, message: str | None = None, *, arguments: Sequence[object] = ()) -> None:
        self.message = escape_unprintable(message) if message else to_single_line(type(self).__doc__ or "")
        super().__init__(*(arguments or (self.message,)))

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Copying and pickling keep message and attributes, whatever a subclass's arguments are."""
        return _restored, (type(self), self.args, self.__dict__)


class ConfigurationError(RegistryError):
    """A setting or an environment variable is wrong. Mend it and start again."""


class InvalidValueError(RegistryError, ValueError):
    """A value was refused before anything was sent or written; `field` names it and `reason` says how to mend it."""

    def __init__(self, field: str, value: object, reason: str, message: str = "") -> None:
        self.field = field
        self.value = value
        self.reason = reason
        message = message or f"{field}: {reason} (got {safe_repr(value)})"
        super().__init__(message, arguments=(field, safe_repr(value), reason, message))


class ConsulUnavailableError(RegistryError):
    """Consul can't be reached or can't answer now. Trying again later is right."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        self.status = status  # HTTP's, where something answered; None where nothing did
        super().__init__(message)


class NoLeaderError(ConsulUnavailableError):
    """Consul's servers have no leader: they are electing one, or lost their majority. Try again later."""

    def __init__(self, url: str, *, status: int | None = 200) -> None:
        super().__init__(f"Consul at {url} has no leader: its servers can't agree on one.", status=status)
        self.args = (url,)


class DifferentAgentsError(ConsulUnavailableError):
    """One address leads to several agents, so nobody can know where a registration would end up.

    After a fail-over the next look succeeds.
    """

    def __init__(self, url: str, agents: Sequence[str]) -> None:
        self.agents = tuple(agents)
        super().__init__(
            f"Consul at {url}: this address leads to different agents: {', '.join(self.agents)}. "
            "Give the address of a single agent in CONSUL_HTTP_ADDR."
        )
        self.args = (url, self.agents)


class InvalidReplyError(ConsulUnavailableError):
    """The reply can't be Consul's. It is no proof that anything is gone."""

    def __init__(self, message: str | None = None, *, status: int | None = 200) -> None:
        super().__init__(message, status=status)


class ConsulRefusedError(RegistryError):
    """Consul understood the request and refused it. Trying again without a change won't help."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class ConsulPermissionError(ConsulRefusedError):
    """The ACL token is missing, unknown, or lacks a permission that the message names.

    `token_is_unknown`: no token of this value exists, or a server that lags behind doesn't have it yet.
    """

    def __init__(
        self, message: str | None = None, *, status: int | None = None, token_is_unknown: bool = False
    ) -> None:
        self.token_is_unknown = token_is_unknown
        super().__init__(message, status=status)


class NoSuchServiceError(RegistryError):
    """Consul knows no service of this name. Check the name, and whether the service was ever registered.

    `may_be_hidden`: Consul's ACLs would hide it, because no token was sent.
    """

    def __init__(self, service: str, message: str | None = None, *, may_be_hidden: bool = False) -> None:
        self.service = service
        if may_be_hidden:
            message = message or (
                f"Consul shows no service {service!r} to requests without a token, and may hide it: give a token in "
                "CONSUL_HTTP_TOKEN that has `service:read` and `node:read`, or check the name."
            )
        message = message or f"Consul knows no service {service!r}: check the name, or register an instance of it."
        super().__init__(message, arguments=(service, message))


class NoHealthyInstanceError(RegistryError):
    """The service exists but none of its instances is passing its checks."""

    def __init__(self, service: str, message: str | None = None, *, instances: Sequence[str] = ()) -> None:
        self.service = service
        self.instances = tuple(instances)
        known = "; ".join(to_single_line(text, max_length=MAX_ITEM) for text in self.instances[:MAX_ITEMS])
        more = f"; and {len(self.instances) - MAX_ITEMS} more" if len(self.instances) > MAX_ITEMS else ""
        message = message or f"No healthy instance of {service!r}: {known or 'it has no instance at all'}{more}."
        super().__init__(message, arguments=(service, message))


class Outcome(StrEnum):
    """Outcome of an attempt, as far as the caller can know."""

    NOT_SENT = "not sent"
    MAYBE_RECEIVED = "may have been received"
    UNUSABLE = "unusable reply"
    REPLIED = "replied"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Attempt to call an instance: its ID and root URL, the outcome and its text, and the duration in seconds."""

    instance: str
    url: str
    outcome: Outcome
    detail: str
    duration: float
    status: int | None = None
    service: str = ""

    def __str__(self) -> str:
        text = f"{self.instance} at {self.url}: {self.detail} after {self.duration * 1000:.0f} ms"
        return to_single_line(text, max_length=MAX_ITEM)


class AttemptError(RegistryError):
    """An attempt brought no usable reply. Raised by the transports; a caller never sees it but as a cause.

    `is_local` tells that a limit of the client itself is the reason, which says nothing about the instance.
    """

    def __init__(self, outcome: Outcome, detail: str, *, is_local: bool = False) -> None:
        self.outcome = Outcome(outcome)
        self.detail = detail
        self.is_local = is_local
        super().__init__(detail, arguments=(str(self.outcome), detail))


class CallFailedError(RegistryError):
    """A call got no usable reply; `attempts` tells what was tried, on which instance, and what came back."""

    def __init__(self, service: str, message: str | None = None, *, attempts: Sequence[Attempt] | None = None) -> None:
        self.service = service
        self.attempts = tuple(attempts or ())
        message = message or f"The call to {service!r} failed"
        if attempts is not None:
            message = f"{message}: {'; '.join(map(str, attempts)) or 'nothing was sent'}."
        super().__init__(message, arguments=(service, message))


class DeadlineExceededError(CallFailedError):
    """The call's time was used up before a whole reply had come."""


class UnsafePlanError(RegistryError):
    """The plan would remove more than is safe without being told so; nothing was changed."""

    def __init__(self, message: str | None = None, *, would_remove: Sequence[str] = ()) -> None:
        self.would_remove = tuple(would_remove)
        super().__init__(message)


class StoppedError(RegistryError):
    """The work was stopped before this step began. Somebody else may go on with it."""


class StalePlanError(RegistryError):
    """A plan that was kept is out of date: a side that it was made from has moved since. Make and review a new one.

    `declared` and `observed` are the IDs of the instances that have moved on either side.
    """

    def __init__(
        self, message: str | None = None, *, declared: Sequence[str] = (), observed: Sequence[str] = ()
    ) -> None:
        self.declared = tuple(declared)
        self.observed = tuple(observed)
        super().__init__(message)


class UnreachableAddressError(RegistryError):
    """An instance doesn't answer at its new address, and Consul would take it as passing there: it was not moved."""


class DatabaseUnavailableError(RegistryError):
    """The database can't be reached or can't answer now. Nothing more is written to Consul until it can."""


def _restored(kind: type[RegistryError], args: tuple[object, ...], attributes: dict[str, object]) -> RegistryError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error
