"""The one place that says which names, IDs, addresses, ports, durations, tags, meta and paths are acceptable.

Consul's agent accepts nearly anything (`..`, a newline, port 70000), and some of what it accepts can never be removed
again by URL, so nothing else stands between a typo and the catalog. Each function returns the value in its canonical
form or raises InvalidValueError, which names the field. No function here does any I/O.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from registry_admin.errors import InvalidValueError

MAX_NAME = 128
MAX_ID = 240  # leaves room for what a check's ID adds to it
MAX_TAG = 255
MAX_META_PAIRS = 64  # Consul's own limits: https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference#meta
MAX_META_KEY = 128
MAX_META_VALUE = 512
MAX_PATH = 2048
MAX_DURATION_S = 24 * 3600.0

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?")
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_METHOD = re.compile(r"[A-Z]{1,20}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 section 5.6.2
_CLOUD_METADATA = frozenset({"metadata.google.internal", "metadata", "instance-data", "instance-data.ec2.internal"})
_CLOUD_METADATA_IPS = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))

# Headers that a connection or this library owns: from a caller they could split a request or leak our token.
FORBIDDEN_HEADERS = frozenset(
    {"host", "transfer-encoding", "content-length", "connection", "keep-alive", "upgrade", "te", "trailer",
     "proxy-authorization", "proxy-connection", "x-consul-token"}
)  # fmt: skip


def service_name(value: object, field: str = "name") -> str:
    """A service's name: ASCII letters, digits, `-`, `_` and inner dots, at most 128 characters.

    Narrower than Consul, which takes `a/b` and `..` and can't deregister them again.
    """
    text = _text(value, field, maximum=MAX_NAME)
    if not _NAME.fullmatch(text):
        raise InvalidValueError(
            field, value, "use letters, digits, '-', '_' and inner dots, beginning and ending with a letter or digit"
        )
    return text


def service_id(value: object, field: str = "service_id") -> str:
    """An instance's ID, unique on its agent: a name's characters and `:`, at most 240."""
    return _identifier(value, field, maximum=MAX_ID)


def check_id(value: object, field: str = "check_id") -> str:
    """A check's ID, unique on its node: an instance's ID and a suffix, at most 255 characters."""
    return _identifier(value, field, maximum=255)


def _identifier(value: object, field: str, *, maximum: int) -> str:
    text = _text(value, field, maximum=maximum)
    if not _ID.fullmatch(text):
        raise InvalidValueError(
            field, value, "use letters, digits, '-', '_', '.' and ':', beginning and ending with a letter or digit"
        )
    return text


def default_service_id(name: str, address: str, port: int) -> str:
    """`name-address-port`; the colons at the ends of an IPv6 address can't begin or end anything, so it is safe."""
    return service_id(f"{name}-{address}-{port}")


def address(value: object, field: str = "address") -> str:
    """An IP address or host name that others can connect to, without scheme, user, port or path.

    Refuses link-local and cloud metadata addresses in every spelling: a check makes the agent fetch from there.
    """
    text = _text(value, field, maximum=253)
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return _host_name(text, field)
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if mapped.is_unspecified:
        raise InvalidValueError(
            field, value, "give the address that others connect to; this one only means 'all of mine'"
        )
    if mapped.is_link_local or mapped in _CLOUD_METADATA_IPS:
        raise InvalidValueError(field, value, "link-local and cloud metadata addresses are not allowed")
    if mapped.is_multicast or str(mapped) == "255.255.255.255":
        raise InvalidValueError(field, value, "multicast and broadcast addresses can't be connected to")
    if "%" in text:
        raise InvalidValueError(field, value, "an address with a zone is only good on one machine")
    return str(mapped)


def _host_name(text: str, field: str) -> str:
    host = text.rstrip(".") if text != "." else text
    labels = host.split(".")
    if not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise InvalidValueError(field, text, "use an IP address or a host name, without scheme, user, port or path")
    # A name whose last label is a number is read as an IPv4 address by resolvers (127.1, 2130706433, 0x7f000001).
    if re.fullmatch(r"\d+|0[xX][0-9a-fA-F]*", labels[-1]):
        raise InvalidValueError(field, text, "write an IPv4 address as four decimal numbers, such as 127.0.0.1")
    if host.lower() in _CLOUD_METADATA:
        raise InvalidValueError(field, text, "link-local and cloud metadata addresses are not allowed")
    return host


def port(value: object, field: str = "port") -> int:
    """A TCP port, 1 to 65535, as a whole number."""
    return _whole_number(value, field, minimum=1, maximum=65535)


def weight(value: object, field: str = "weight") -> int:
    """An instance's share of calls relative to the others', 1 to 65535."""
    return _whole_number(value, field, minimum=1, maximum=65535)


def _whole_number(value: object, field: str, *, minimum: int, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValueError(field, value, f"give a whole number from {minimum} to {maximum}, not text")
    if not minimum <= value <= maximum:
        raise InvalidValueError(field, value, f"give a whole number from {minimum} to {maximum}")
    return value


def duration(
    value: object, field: str = "duration", *, minimum_s: float = 1.0, maximum_s: float = MAX_DURATION_S
) -> str:
    """A length of time as Consul writes it (`10s`, `1m30s`), returned in seconds: `90s`. A unit is a must."""
    text = _text(value, field, maximum=64)
    if not _DURATION.fullmatch(text):
        raise InvalidValueError(field, value, "give a number with a unit (ms, s, m, h), such as '10s' or '1m30s'")
    total = seconds(text)
    if not minimum_s <= total <= maximum_s:
        raise InvalidValueError(field, value, f"must be between {_plain(minimum_s)} and {_plain(maximum_s)}")
    return _plain(total)


def seconds(value: str) -> float:
    """The length in seconds of a duration that `duration` accepts."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))


def _plain(total: float) -> str:
    return f"{round(total, 3):.3f}".rstrip("0").rstrip(".") + "s"


def tags(value: object, field: str = "tags") -> tuple[str, ...]:
    """Labels of a service, as a sorted tuple without repeats. None holds a comma or a control character."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValueError(field, value, "give a list of words, such as ['api', 'v1']")
    found = set()
    for item in value:
        text = _text(item, field, maximum=MAX_TAG)
        if "," in text:
            raise InvalidValueError(field, item, "a tag can't hold a comma; give two tags")
        found.add(text)
    if len(found) > 128:
        raise InvalidValueError(field, len(found), "at most 128 tags")
    return tuple(sorted(found))


def meta(
    value: object, field: str = "meta", *, reserved: Iterable[str] = (), maximum: int = MAX_META_PAIRS
) -> dict[str, str]:
    """Key-value pairs of text, within Consul's limits; `reserved` keys are refused beside Consul's own prefix."""
    if not isinstance(value, Mapping):
        raise InvalidValueError(field, value, "give pairs of text, such as {'version': '1.4'}")
    if len(value) > maximum:
        raise InvalidValueError(field, len(value), f"at most {maximum} pairs")
    refused = frozenset(reserved)
    pairs = {}
    for key, content in value.items():
        if not isinstance(key, str) or not _META_KEY.fullmatch(key) or len(key) > MAX_META_KEY:
            raise InvalidValueError(field, key, f"a key is 1 to {MAX_META_KEY} letters, digits, '-' and '_'")
        if key.lower().startswith("consul-") or key in refused:
            raise InvalidValueError(field, key, "this key is reserved")
        if not isinstance(content, str):
            raise InvalidValueError(f"{field}.{key}", content, "a value is text; put it in quotes")
        if len(content) > MAX_META_VALUE or len(content.encode("utf-8", "replace")) > MAX_META_VALUE:
            raise InvalidValueError(f"{field}.{key}", content, f"a value is at most {MAX_META_VALUE} characters")
        if not _is_clean(content):
            raise InvalidValueError(f"{field}.{key}", content, "control and invisible characters are not allowed")
        pairs[key] = content
    return dict(sorted(pairs.items()))


def http_path(value: object, field: str = "path") -> str:
    """An absolute path with an optional query that can neither change the host nor climb out of where it points."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidValueError(field, value, "give a path that begins with '/', such as '/health'")
    if len(value) > MAX_PATH:
        raise InvalidValueError(field, value, f"at most {MAX_PATH} characters")
    if not value.isascii() or not value.isprintable() or any(c in value for c in ' \\"<>^`{|}#'):
        raise InvalidValueError(
            field, value, "percent-encode spaces, control and non-ASCII characters; no '\\' and no '#'"
        )
    path = value.partition("?")[0]
    if re.search(r"%(?![0-9A-Fa-f]{2})", value):
        raise InvalidValueError(field, value, "'%' must be followed by two hexadecimal digits; '%25' means itself")
    if "//" in path:
        raise InvalidValueError(field, value, "'//' could be read as another host")
    # Decoded until nothing changes: some server on the way may decode twice.
    decoded, before = unquote(path), path
    while decoded != before:
        decoded, before = unquote(decoded), decoded
    if any(segment in (".", "..") for segment in re.split(r"[/\\]", decoded.replace(";", "/"))):
        raise InvalidValueError(field, value, "'.' and '..' segments, encoded or not, are not allowed")
    if "//" in decoded or "\\" in decoded or not all(c.isprintable() for c in decoded):
        raise InvalidValueError(field, value, "an encoded '//', '\\' or control character is not allowed")
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in unquote(value.partition("?")[2])):
        raise InvalidValueError(field, value, "an encoded control character is not allowed")
    return value


def method(value: object, field: str = "method") -> str:
    """An HTTP method in capitals; lower case is turned."""
    if not isinstance(value, str) or not _METHOD.fullmatch(value.upper()) or not value.isascii():
        raise InvalidValueError(field, value, "give an HTTP method, such as GET or POST")
    if value.upper() in {"CONNECT", "TRACE"}:
        raise InvalidValueError(field, value, "CONNECT and TRACE can't be used for a call")
    return value.upper()


def headers(value: object, field: str = "headers") -> dict[str, str]:
    """Request headers that can't split the request, and none that the connection itself owns."""
    if not isinstance(value, Mapping):
        raise InvalidValueError(field, value, "give pairs of text, such as {'Accept': 'application/json'}")
    found = {}
    for name, content in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidValueError(field, name, "a header's name is letters, digits and '-'")
        if name.lower() in FORBIDDEN_HEADERS:
            raise InvalidValueError(field, name, "this header is set by the connection itself and can't be given")
        if not isinstance(content, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", content):
            raise InvalidValueError(f"{field}.{name}", content, "a header's value is text without line breaks")
        try:
            content.encode("latin-1")
        except UnicodeEncodeError:
            raise InvalidValueError(f"{field}.{name}", content, "a header's value is Latin-1 text") from None
        found[name] = content
    return found


def _text(value: object, field: str, *, maximum: int) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValueError(field, value, "must be text and not empty")
    if len(value) > maximum:
        raise InvalidValueError(field, value, f"at most {maximum} characters")
    if value != value.strip() or not _is_clean(value):
        raise InvalidValueError(field, value, "no spaces around it, and no control or invisible characters")
    return value


def _is_clean(text: str) -> bool:
    """Printable, hence without controls, line breaks and the invisible or direction-changing marks of Unicode."""
    return text.isprintable()
