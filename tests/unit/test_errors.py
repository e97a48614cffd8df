"""What a caller may rely on in every exception: a message, a place in the hierarchy, and surviving a trip elsewhere."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from registry_admin import errors
from registry_admin.errors import (
    CallFailedError,
    ConfigurationError,
    ConsulPermissionError,
    ConsulRefusedError,
    ConsulUnavailableError,
    DeadlineExceededError,
    InvalidReplyError,
    InvalidValueError,
    NoHealthyInstanceError,
    NoSuchServiceError,
    PlanMovedError,
    RegistryError,
    StoreUnavailableError,
    UnsafePlanError,
)

EXAMPLES = [
    RegistryError(),
    RegistryError("what happened"),
    ConfigurationError("CONSUL_PORT: no number"),
    InvalidValueError("port", 0, "give a whole number"),
    ConsulUnavailableError("away"),
    StoreUnavailableError("away"),
    InvalidReplyError("garbage"),
    ConsulRefusedError("no", status=400),
    ConsulPermissionError("denied", status=403),
    NoSuchServiceError("backend-api"),
    NoSuchServiceError("backend-api", "in my own words"),
    NoHealthyInstanceError("backend-api", instances=["a is critical"]),
    CallFailedError("backend-api", "It failed"),
    DeadlineExceededError("backend-api"),
    UnsafePlanError("too much", would_remove=["a", "b"]),
    PlanMovedError("it moved", declared=["a"], observed=["b"]),
]


def test_every_error_has_an_example_here():
    defined = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert {type(example) for example in EXAMPLES} == defined


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_a_registry_error_and_says_something(error):
    assert isinstance(error, RegistryError)
    assert str(error).strip() not in ("", "None")


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_survives_a_trip_to_another_process(error, travel):
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_without_a_message_the_description_is_the_message():
    assert str(ConsulUnavailableError()) == ConsulUnavailableError.__doc__


def test_errors_are_told_apart_by_what_the_caller_can_do():
    assert issubclass(InvalidReplyError, ConsulUnavailableError)  # later is fine
    assert issubclass(ConsulPermissionError, ConsulRefusedError)  # it isn't
    assert not issubclass(ConsulRefusedError, ConsulUnavailableError)
    assert issubclass(InvalidValueError, ValueError)  # as whoever calls with a bad value expects


class Stranger:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value", ["x" * 10_000_000, b"x" * 10_000_000, 10**5000, ["x" * 10_000], Stranger(), "\x1b[31m\n\u202e\ud800", None]
)
def test_any_value_makes_a_short_message_on_one_line(value):
    text = str(InvalidValueError("field", value, "no"))
    assert text.startswith("field: no (got ")
    assert len(text) < 120
    assert text.isprintable()
    text.encode("utf-8")


def test_no_healthy_instance_says_which_there_are():
    assert "a is critical" in str(NoHealthyInstanceError("backend-api", instances=["a is critical"]))
    assert "no instance at all" in str(NoHealthyInstanceError("backend-api"))
