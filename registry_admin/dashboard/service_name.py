"""Names of services in paths: whatever name Consul takes, its page has an address, and only one."""

from __future__ import annotations

import base64
import re

from django.urls import register_converter

_MAX_BYTES = 200  # a longer name in percent-encoding, as the target of a login, outgrows a server's request line
# What browsers and proxies rewrite: empty and dot segments, and characters that some of them decode or cut at.
_REWRITTEN = re.compile(r"[\\%;?#]|(?:^|/)\.{0,2}(?:/|$)")


class ServiceNameConverter:
    """A plain name stands in the path as it is; of any other, `~` and its UTF-8 in base64url.

    Invisible characters, `..`, an empty segment or a `~` in front make a name not plain.
    """

    regex = ".+"

    def to_url(self, name: str) -> str:
        """Returns the name as it stands in a path, before Django quotes it."""
        return name if _is_plain(name) else "~" + base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")

    def to_python(self, text: str) -> str:
        """Returns the name. Raises ValueError, which gives a 404, for text that `to_url` doesn't return."""
        name = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4)).decode() if text[0] == "~" else text
        if not name or "\x00" in name or self.to_url(name) != text:
            raise ValueError("not the address of a service")
        return name


def _is_plain(name: str) -> bool:
    return (
        name.isprintable()
        and name == name.strip()
        and not name.startswith("~")
        and not _REWRITTEN.search(name)
        and len(name.encode()) <= _MAX_BYTES
    )


register_converter(ServiceNameConverter, "service_name")
