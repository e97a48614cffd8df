"""A service to run as a process: `python -m tests.parts.echo_service PORT`. It answers with its port."""

from __future__ import annotations

import sys
import threading

from tests.parts import HttpService

if __name__ == "__main__":
    HttpService(port=int(sys.argv[1]), body=sys.argv[1].encode()).start()
    threading.Event().wait()
