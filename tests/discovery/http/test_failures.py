"""Descriptions of network failures."""

from __future__ import annotations

import http.client
import socket
import ssl

import pytest
import urllib3

from registry_admin.discovery.http.failures import _DESCRIPTIONS, attempt_error, describe_failure, may_resend
from registry_admin.discovery.http.framing import (
    HeadTooLargeError,
    NoReplyError,
    TruncatedReplyError,
    UnreadableReplyError,
)
from registry_admin.errors import Outcome

KNOWN = [
    ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError, ssl.SSLError, http.client.RemoteDisconnected,
    ConnectionResetError, BrokenPipeError, http.client.IncompleteRead, TimeoutError, http.client.BadStatusLine,
    UnreadableReplyError, HeadTooLargeError, TruncatedReplyError, NoReplyError,
]  # fmt: skip


def test_described_exceptions_exist_under_these_names():
    assert {kind.__name__ for kind in KNOWN} == _DESCRIPTIONS.keys()


@pytest.mark.parametrize(
    ("error", "description"),
    [
        (ConnectionRefusedError(), "connection refused"),
        (http.client.RemoteDisconnected("x"), "it closed the connection without a reply"),
        (TimeoutError(), "no answer in time"),
        (ValueError("x"), "its reply could not be read (ValueError)"),
    ],
)
def test_description_is_that_of_the_type(error, description):
    assert describe_failure(error) == description


def test_description_is_that_of_the_innermost_known_cause():
    error = urllib3.exceptions.HTTPError("outer")
    error.__cause__ = ConnectionResetError()
    error.__cause__.__context__ = ValueError("inner, but unknown")
    assert describe_failure(error) == "it reset the connection"


@pytest.mark.parametrize("error", [NoReplyError(), ConnectionResetError(), BrokenPipeError()], ids=type)
def test_repeatable_request_is_sent_again_only_after_a_reused_connection_ended_without_a_byte(error):
    assert may_resend(error, reused=True, has_begun=False, repeatable=True)
    assert not may_resend(error, reused=False, has_begun=False, repeatable=True)
    assert not may_resend(error, reused=True, has_begun=True, repeatable=True)
    assert not may_resend(error, reused=True, has_begun=False, repeatable=False)


@pytest.mark.parametrize("error", [TimeoutError(), TruncatedReplyError(), UnreadableReplyError()], ids=type)
def test_request_is_not_sent_again_after_another_failure(error):
    assert not may_resend(error, reused=True, has_begun=False, repeatable=True)


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Outcome.UNUSABLE),
        ("SSLV3_ALERT_BAD_CERTIFICATE", Outcome.UNUSABLE),
        ("TLSV1_ALERT_UNKNOWN_CA", Outcome.UNUSABLE),
        ("WRONG_VERSION_NUMBER", Outcome.NOT_SENT),
    ],
)
def test_refused_certificate_of_the_client_is_no_fault_of_the_instance(reason, outcome):
    error = ssl.SSLError(1, reason)
    error.reason = reason
    assert attempt_error(error, Outcome.NOT_SENT).outcome is outcome
