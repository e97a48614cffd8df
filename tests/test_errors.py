"""Guarantees of every exception: a message, a place in the hierarchy, and copying and pickling."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import pytest

from registry_admin import errors
from registry_admin.errors import (
    AttemptError,
    CallFailedError,
    ConfigurationError,
    ConsulPermissionError,
    ConsulRefusedError,
    ConsulUnavailableError,
    DatabaseUnavailableError,
    DeadlineExceededError,
    DifferentAgentsError,
    InvalidReplyError,
    InvalidValueError,
    NoHealthyInstanceError,
    NoLeaderError,
    NoSuchServiceError,
    Outcome,
    RegistryError,
    StalePlanError,
    StoppedError,
    UnreachableAddressError,
    UnsafePlanError,
)

EXAMPLES = [
    AttemptError(Outcome.NOT_SENT, "refused the connection"),
    RegistryError(),
    RegistryError("what happened"),
    ConfigurationError("CONSUL_PORT: no number"),
    InvalidValueError("port", 0, "give a whole number"),
    ConsulUnavailableError("away"),
    DatabaseUnavailableError("away"),
    InvalidReplyError("garbage"),
    NoLeaderError("http://127.0.0.1:8500", status=500),
    DifferentAgentsError("http://127.0.0.1:8500", ["n1", "n2"]),
    ConsulRefusedError("no", status=400),
    ConsulPermissionError("denied", status=403),
    NoSuchServiceError("backend-api"),
    NoSuchServiceError("backend-api", "in my own words"),
    NoHealthyInstanceError("backend-api", instances=["a is critical"]),
    CallFailedError("backend-api", "It failed"),
    CallFailedError("backend-api", "It failed", attempts=[]),
    DeadlineExceededError("backend-api"),
    UnsafePlanError("too much", would_remove=["a", "b"]),
    StalePlanError("it moved", declared=["a"], observed=["b"]),
    StoppedError("another watcher leads now"),
    UnreachableAddressError("api-1 does not answer"),
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


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_sent_as_json_is_made_again_with_its_text(error):
    # As Celery's JSON results do: the class, and its arguments.
    arguments = json.loads(json.dumps(error.args))
    arrived = type(error)(*arguments)
    assert str(arrived) == str(error)
    assert getattr(arrived, "service", "") == getattr(error, "service", "")
    assert getattr(arrived, "field", "") == getattr(error, "field", "")


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
def test_message_with_random_value_is_short_and_on_one_line(value):
    text = str(InvalidValueError("field", value, "no"))
    assert text.startswith("field: no (got ")
    assert len(text) < 120
    assert text.isprintable()
    text.encode("utf-8")


def test_no_healthy_instance_error_lists_instances():
    assert "a is critical" in str(NoHealthyInstanceError("backend-api", instances=["a is critical"]))
    assert "no instance at all" in str(NoHealthyInstanceError("backend-api"))
