"""Propagation for WSGI applications such as Flask's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from registry_admin.discovery import own_instances
from registry_admin.discovery.propagation import propagated

_OWN_HEADER = f"HTTP_{own_instances.HEADER.upper().replace('-', '_')}"
_REFUSED = f"{own_instances.MISDIRECTED} Misdirected Request"


class WSGIPropagateContext:
    """WSGI middleware that propagates a request's ID, trace and deadline to the calls that are made for it.

    `app.wsgi_app = WSGIPropagateContext(app.wsgi_app)`. Calls that are meant for another instance are refused.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        own_instances.add_middleware()

    def __call__(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Handles one request of the server."""
        instance_id = own_instances.refusing_instance(environ.get(_OWN_HEADER))
        if instance_id is not None:
            body = own_instances.refusal_text(instance_id).encode()
            headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                (own_instances.HEADER, instance_id),
            ]
            start_response(_REFUSED, headers)
            return [body]
        with propagated(_headers(environ)):
            return self._app(environ, start_response)


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    return {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
