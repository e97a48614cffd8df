"""What servers don't tell an application: one module for each that needs a hook of its own.

A hook makes the server leave Consul before it stops accepting where no signal says so, or where its handlers are set
before a registration starts. It replaces a function of the server, and does nothing where no registration lives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from registry_admin.discovery.registration.servers import granian, gunicorn, hypercorn, uvicorn

_HOOKS = {
    "gunicorn.workers.gasgi": gunicorn.hook_asgi_worker,
    "uvicorn.server": uvicorn.hook_server,
    "hypercorn.asyncio.run": hypercorn.hook_worker,
    "granian._signals": granian.hook_signals,
}
_installed: set[str] = set()


def has_hooks() -> bool:
    """Returns whether the server of this process has a hook of its own."""
    return bool(_installed)


def install_hooks(leave: Callable[[], None]) -> None:
    """Installs the hooks of the servers that are loaded. `leave` blocks until callers can have noticed."""
    for module, install in _HOOKS.items():
        if module in sys.modules and module not in _installed:
            _installed.add(module)
            install(sys.modules[module], leave)
