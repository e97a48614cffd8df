"""Gunicorn's configuration: a line of the access log is one line, whatever a client sends."""

from __future__ import annotations

import runpy
import socket
from pathlib import Path

import pytest

CONFIGURATION = runpy.run_path(str(Path(__file__).parents[1] / "registry_admin" / "gunicorn.conf.py"))


def test_access_log_escapes_what_a_client_sends():
    atoms = CONFIGURATION["QuietLogger"].atoms_wrapper_class({"a": 'agent"\x1b[31m\nforged \u2028', "B": 7})
    assert (atoms["a"], atoms["B"]) == ('agent\\"\\x1b[31m\\nforged \\u2028', 7)


@pytest.mark.network
def test_connections_wait_ten_seconds_for_the_rest_of_a_request():
    class Listener:
        def __init__(self) -> None:
            self.sock = socket.socket()

    class Server:
        LISTENERS = [Listener()]

    CONFIGURATION["when_ready"](Server)
    (listener,) = Server.LISTENERS
    assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)[0] == CONFIGURATION["SLOW_CLIENT_S"]
    listener.sock.close()
