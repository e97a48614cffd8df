"""A service in a process of its own, to be killed and frozen: `python -m tests.consul.echo_service PORT`."""

from __future__ import annotations

import sys
import threading

from tests.parts import HttpService

if __name__ == "__main__":
    HttpService(port=int(sys.argv[1]), body=sys.argv[1].encode()).start()
    threading.Event().wait()
