"""Every exception that a caller may catch, told apart by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry_admin.discovery.policy import Attempt


class RegistryError(Exception):
    """Registry Admin could not do what it was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)

    def __reduce__(self) -> tuple[object, ...]:
        """Copying and pickling keep message and attributes, whatever a subclass's arguments are."""
        return _restored, (type(self), self.args, self.__dict__)


class ConfigurationError(RegistryError):
    """A setting or an environment variable is wrong. Mend it and start again."""


class InvalidValueError(RegistryError, ValueError):
    """A value was refused before anything was sent or written; `field` names it and `reason` says how to mend it."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        self.field = field
        self.value = value
        self.reason = reason
        super().__init__(f"{field}: {reason} (got {_shown(value)})")


class ConsulUnavailableError(RegistryError):
    """Consul can't be reached or can't answer now. Trying again later is right."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        self.status = status  # HTTP's, where something answered; None where nothing did
        super().__init__(message)


class InvalidReplyError(ConsulUnavailableError):
    """What answered in Consul's place can't be its reply. It is no proof that anything is gone."""

    def __init__(self, message: str | None = None, *, status: int | None = 200) -> None:
        super().__init__(message, status=status)


class ConsulRefusedError(RegistryError):
    """Consul understood the request and refused it. Trying again without a change won't help."""

    def __init__(self, message: str | None = None, *, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class ConsulPermissionError(ConsulRefusedError):
    """The ACL token is missing, unknown, or lacks a permission that the message names."""


class NoSuchServiceError(RegistryError):
    """Consul knows no service of this name. Check the name, and whether the service was ever registered."""

    def __init__(self, service: str, message: str | None = None) -> None:
        self.service = service
        super().__init__(
            message or f"Consul knows no service {service!r}: check the name, or register an instance of it."
        )


class NoHealthyInstanceError(RegistryError):
    """The service exists but none of its instances is passing its checks."""

    def __init__(self, service: str, message: str | None = None, *, instances: Sequence[str] = ()) -> None:
        self.service = service
        self.instances = tuple(instances)
        known = "; ".join(self.instances) or "it has no instance at all"
        super().__init__(message or f"No healthy instance of {service!r}: {known}.")


class CallFailedError(RegistryError):
    """A call got no usable reply; `attempts` tells what was tried, on which instance, and what came back."""

    def __init__(self, service: str, message: str | None = None, *, attempts: Sequence[Attempt] = ()) -> None:
        self.service = service
        self.attempts = tuple(attempts)
        tried = "; ".join(str(attempt) for attempt in self.attempts) or "nothing was sent"
        super().__init__(f"{message or f'The call to {service!r} failed'}: {tried}.")


class DeadlineExceededError(CallFailedError):
    """The call's time was used up before a whole reply had come."""


class UnsafePlanError(RegistryError):
    """The plan would remove more than is safe without being told so; nothing was changed."""

    def __init__(self, message: str | None = None, *, would_remove: Sequence[str] = ()) -> None:
        self.would_remove = tuple(would_remove)
        super().__init__(message)


class PlanMovedError(RegistryError):
    """A plan that was kept is out of date: a side that it was made from has moved since. Make and review a new one.

    `declared` and `observed` are the IDs of the instances that have moved on either side.
    """

    def __init__(
        self, message: str | None = None, *, declared: Sequence[str] = (), observed: Sequence[str] = ()
    ) -> None:
        self.declared = tuple(declared)
        self.observed = tuple(observed)
        super().__init__(message)


class StoreUnavailableError(RegistryError):
    """The database can't be reached or can't answer now. Nothing more is written to Consul until it can."""


def _restored(kind: type[RegistryError], args: tuple[object, ...], attributes: dict[str, object]) -> RegistryError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def _shown(value: object) -> str:
    """A value as it may stand in a message: short, on one line, and without ever failing."""
    try:
        text = repr(value[:80] if isinstance(value, str | bytes) else value)
    except Exception:  # noqa: BLE001 - a number of 5,000 digits, or a stranger's own __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
