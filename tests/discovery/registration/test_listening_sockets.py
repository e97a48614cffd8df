"""Listening sockets of processes."""

from __future__ import annotations

import os
import socket

import pytest

from registry_admin.discovery.registration.listening_sockets import is_listening
from tests.parts import refusing_port

pytestmark = pytest.mark.network


def test_is_listening_knows_the_sockets_of_a_process():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert is_listening("self", port)
        assert is_listening(os.getpid(), port)
        assert not is_listening(1 if os.getpid() != 1 else 2, port)
    assert not is_listening("self", port)


def test_is_listening_of_a_process_that_is_gone_is_false():
    assert not is_listening(2**30, refusing_port())
