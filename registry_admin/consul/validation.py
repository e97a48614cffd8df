"""Rules for acceptable values: which names, IDs, addresses, ports, durations, tags, meta and paths are accepted.

Consul's agent accepts nearly anything (`..`, a newline, port 70000), and some of what it accepts can never be removed
again by URL, so nothing else stands between a typo and the catalog. Each function returns the value in its canonical
form or raises InvalidValueError, which names the field. No function here does any I/O.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

from registry_admin.consul.addresses import embedded_ipv4
from registry_admin.errors import InvalidValueError

MAX_NAME = 128
MAX_ID = 240  # leaves room for what a check's ID adds to it
MAX_TAG = 255
MAX_TAGS = 128
MAX_META_PAIRS = 64  # Consul's own limits: https://developer.hashicorp.com/consul/docs/services/configuration/services-configuration-reference#meta
MAX_META_KEY = 128
MAX_META_VALUE = 512
MAX_PATH = 2048
MAX_HEADER_NAME = 128
MAX_DURATION_S = 24 * 3600.0

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ID = re.compile(r"[A-Za-z0-9_/](?:[A-Za-z0-9._:/-]*[A-Za-z0-9_])?")
_META_KEY = re.compile(r"[A-Za-z0-9_-]+")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_METHOD = re.compile(r"[A-Z]{1,20}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 section 5.6.2
# Where clouds hand out credentials, beside the link-local addresses: AWS, GCP, Alibaba, Oracle, Azure.
_CLOUD_METADATA_IPS = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)
_CLOUD_METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "metadata.tencentyun.com",
     "metadata.oraclecloud.com", "metadata.platformequinix.com", "instance-data", "instance-data.ec2.internal"}
)  # fmt: skip
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # Unicode calls them printable; nothing shows

HIDDEN = "(not shown)"  # stands for a secret value

# Headers that a connection or this library owns: from a caller they could split a request or leak our token.
FORBIDDEN_HEADERS = frozenset(
    {"host", "transfer-encoding", "content-length", "connection", "keep-alive", "upgrade", "te", "trailer", "expect",
     "proxy-authorization", "proxy-connection", "x-consul-token"}
)  # fmt: skip


def service_name(value: object, field: str = "name") -> str:
    """A service's name: ASCII letters, digits, `-`, `_` and inner dots, at most 128 characters.

    Narrower than Consul, which takes `a/b` and `..` and can't deregister them again.
    """
    name = text(value, field, maximum=MAX_NAME)
    if not _NAME.fullmatch(name):
        raise InvalidValueError(
            field, value, "use letters, digits, '-', '_' and inner dots, beginning and ending with a letter or digit"
        )
    return name


def service_id(value: object, field: str = "service_id") -> str:
    """An instance's ID, unique on its agent, at most 240 characters: a name's, `:` and `/`.

    Wider than a name, because other programs give IDs such as `_nomad-task-…` and `/a/b`.
    """
    return _identifier(value, field, maximum=MAX_ID)


def check_id(value: object, field: str = "check_id") -> str:
    """A check's ID, unique on its node: an instance's ID and a suffix, at most 255 characters."""
    return _identifier(value, field, maximum=255)


def _identifier(value: object, field: str, *, maximum: int) -> str:
    identifier = text(value, field, maximum=maximum)
    if not _ID.fullmatch(identifier):
        raise InvalidValueError(
            field,
            value,
            "use letters, digits and any of -_.:/, with a letter, a digit or '_' at its ends (or '/' first)",
        )
    if "//" in identifier or any(segment.strip(".") == "" for segment in identifier.removeprefix("/").split("/")):
        raise InvalidValueError(field, value, "no part between '/' may be empty or of dots only")
    return identifier


def not_consul_itself(value: str, field: str) -> str:
    """A name or ID for registering: `consul` is the servers' own entry in the catalog, which another would replace."""
    if value.lower() == "consul":
        raise InvalidValueError(field, value, "this is Consul's own; give it another one")
    return value


def default_service_id(name: str, address: str, port: int) -> str:
    """`name-address-port`, without an address or a port that isn't given."""
    return service_id("-".join(str(part) for part in (name, address, port) if part))


def address(value: object, field: str = "address") -> str:
    """An IP address or host name that others can connect to, without scheme, user, port or path.

    Refuses link-local and cloud metadata addresses in every spelling: a check makes the agent fetch from there.
    """
    host = text(value, field, maximum=253)
    if "%" in host:
        raise InvalidValueError(field, value, "an address with a zone is only good on one machine")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host_name(host, field)
    for candidate in {ip, *embedded_ipv4(ip)}:
        if candidate.is_unspecified:
            raise InvalidValueError(
                field, value, "give the address that others connect to; this one means 'all of mine'"
            )
        if candidate.is_link_local or candidate in _CLOUD_METADATA_IPS:
            raise InvalidValueError(field, value, "link-local and cloud metadata addresses are not allowed")
        if candidate.is_multicast or str(candidate) == "255.255.255.255":
            raise InvalidValueError(field, value, "multicast and broadcast addresses can't be connected to")
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def host_name(name: str, field: str) -> str:
    """A host name, and none by which clouds hand out credentials."""
    host = name.removesuffix(".")
    labels = host.split(".")
    if not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise InvalidValueError(field, name, "use an IP address or a host name, without scheme, user, port or path")
    # A name whose last label is a number is read as an IPv4 address by resolvers (127.1, 2130706433, 0x7f000001).
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", labels[-1]):
        raise InvalidValueError(field, name, "write an IPv4 address as four decimal numbers, such as 127.0.0.1")
    if host.lower() in _CLOUD_METADATA_NAMES:
        raise InvalidValueError(field, name, "link-local and cloud metadata addresses are not allowed")
    return host


def port(value: object, field: str = "port") -> int:
    """A TCP port, 1 to 65535, as a whole number."""
    return whole_number(value, field, minimum=1, maximum=65535)


def weight(value: object, field: str = "weight") -> int:
    """An instance's share of calls relative to the others', 1 to 65535."""
    return whole_number(value, field, minimum=1, maximum=65535)


def whole_number(value: object, field: str, *, minimum: int, maximum: int) -> int:
    """A whole number within these limits."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValueError(field, value, f"give a whole number from {minimum} to {maximum}, not text")
    if not minimum <= value <= maximum:
        raise InvalidValueError(field, value, f"give a whole number from {minimum} to {maximum}")
    return int(value)


def duration(
    value: object, field: str = "duration", *, minimum_s: float = 1.0, maximum_s: float = MAX_DURATION_S
) -> str:
    """A length of time as Consul writes it (`10s`, `1m30s`), returned in seconds: `90s`. A unit is a must."""
    length = text(value, field, maximum=64)
    if not _DURATION.fullmatch(length):
        raise InvalidValueError(field, value, "give a number with a unit (ms, s, m, h), such as '10s' or '1m30s'")
    total = seconds(length)
    if not minimum_s <= total <= maximum_s:
        raise InvalidValueError(field, value, f"must be between {_plain(minimum_s)} and {_plain(maximum_s)}")
    return _plain(total)


def seconds(value: str) -> float:
    """The length in seconds of a duration that `duration` accepts."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(value))


def _plain(total: float) -> str:
    return f"{round(total, 3):.3f}".rstrip("0").rstrip(".") + "s"


def tags(value: object, field: str = "tags") -> tuple[str, ...]:
    """Labels of a service, as a sorted tuple without repeats. None holds a control character."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidValueError(field, value, "give a list of words, such as ['api', 'v1']")
    unique = set()
    for item in value:
        unique.add(text(item, field, maximum=MAX_TAG))
        if len(unique) > MAX_TAGS:
            raise InvalidValueError(field, len(unique), f"at most {MAX_TAGS} tags")
    return tuple(sorted(unique))


def selected_tag(value: object, field: str = "tag") -> str:
    """A tag that instances are chosen by. One with a comma is refused, because it was mostly meant as two."""
    (tag,) = tags([value], field)
    if "," in tag:
        raise InvalidValueError(field, tag, "give one tag, without a comma")
    return tag


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
            raise InvalidValueError(f"{field}.{key}", content, f"a value is at most {MAX_META_VALUE} bytes")
        if not is_clean(content):
            raise InvalidValueError(f"{field}.{key}", content, "control and invisible characters are not allowed")
        pairs[_exact(key)] = _exact(content)
    return dict(sorted(pairs.items()))


def http_path(value: object, field: str = "path") -> str:
    """An absolute path with an optional query that can neither change the host nor climb out of where it points.

    The query is never part of an error: it may hold a secret.
    """
    if not isinstance(value, str) or not value.startswith("/"):
        path_only = value.partition("?")[0] if isinstance(value, str) else value
        raise InvalidValueError(field, path_only, "give a path that begins with '/', such as '/health'")
    whole = _exact(value)
    path, _, query = whole.partition("?")
    fault = _fault_of_path(whole, path, query)
    if fault:
        raise InvalidValueError(field, path, fault)
    return whole


def base_path(value: object, field: str = "base_path") -> str:
    """Returns a path without a query, below which a service answers."""
    path = http_path(value, field)
    if "?" in path:
        raise InvalidValueError(field, path.partition("?")[0], "a base path has no query")
    return path


def _fault_of_path(whole: str, path: str, query: str) -> str | None:
    if len(whole) > MAX_PATH:
        return f"at most {MAX_PATH} characters"
    if not whole.isascii() or not whole.isprintable() or any(c in whole for c in ' \\"<>^`{|}#'):
        return "percent-encode spaces, control and non-ASCII characters; no '\\' and no '#'"
    if re.search(r"%(?![0-9A-Fa-f]{2})", whole):
        return "'%' must be followed by two hexadecimal digits; '%25' means itself"
    if "//" in path:
        return "'//' could be read as another host"
    try:
        decoded = _fully_decoded(path)
    except UnicodeDecodeError:  # among others the over-long forms that some servers take for '.' and '/'
        return "percent-encoded bytes must be UTF-8"
    if any(_climbs(segment) for segment in re.split(r"[/\\;]", unicodedata.normalize("NFKC", decoded))):
        return "'.' and '..' segments, encoded or not, are not allowed"
    if "//" in decoded or "\\" in decoded or not decoded.isprintable():
        return "an encoded '//', '\\' or control character is not allowed"
    if any(ord(c) < 0x20 or ord(c) == 0x7F for c in unquote(query)):
        return "an encoded control character is not allowed"
    return None


def _fully_decoded(path: str) -> str:
    """Decoded until nothing changes: some server on the way may decode twice."""
    before, decoded = path, unquote(path, errors="strict")
    while decoded != before:
        before, decoded = decoded, unquote(decoded, errors="strict")
    return decoded


def _climbs(segment: str) -> bool:
    """`.` and `..`, also with what some servers strip from a name's end: dots and spaces."""
    return segment.startswith(".") and not segment.strip(". ")


def method(value: object, field: str = "method") -> str:
    """An HTTP method in capitals; lower case is turned."""
    if not isinstance(value, str) or not _METHOD.fullmatch(value.upper()) or not value.isascii():
        raise InvalidValueError(field, value, "give an HTTP method, such as GET or POST")
    if value.upper() in {"CONNECT", "TRACE"}:
        raise InvalidValueError(field, value, "CONNECT and TRACE can't be used for a call")
    return value.upper()


def headers(value: object, field: str = "headers", *, forbidden: frozenset[str] = FORBIDDEN_HEADERS) -> dict[str, str]:
    """Request headers that can't split the request, and none that the connection itself owns (`forbidden`).

    Spaces around a value are taken off. A value is never part of an error: it may be a password.
    """
    if not isinstance(value, Mapping):
        raise InvalidValueError(
            field, type(value).__name__, "give pairs of text, such as {'Accept': 'application/json'}"
        )
    result: dict[str, str] = {}
    names: set[str] = set()
    for name, content in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name) or len(name) > MAX_HEADER_NAME:
            raise InvalidValueError(field, name, f"a header's name is up to {MAX_HEADER_NAME} letters, digits and '-'")
        plain = name.lower().replace("_", "-")  # as gateways in the manner of CGI read it
        if plain in forbidden:
            raise InvalidValueError(field, name, "this header is set by the connection itself and can't be given")
        if plain in names:
            raise InvalidValueError(field, name, "this header is given twice")
        names.add(plain)
        result[_exact(name)] = _header_value(content, f"{field}.{name}")
    return result


def _header_value(content: object, field: str) -> str:
    """Other letters than ASCII would go out as Latin-1 or as UTF-8, whichever the HTTP library likes."""
    if not isinstance(content, str) or not re.fullmatch(r"[\t\x20-\x7e]*", content):
        raise InvalidValueError(field, HIDDEN, "a header's value is one line of ASCII text; percent-encode the rest")
    return _exact(content).strip(" \t")


def acl_token(value: object, field: str = "token") -> str:
    """A Consul ACL token: one line of ASCII text without spaces. Never part of an error."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidValueError(field, HIDDEN, "an ACL token is one line of ASCII text without spaces")
    return _exact(value)


def text(value: object, field: str, *, maximum: int) -> str:
    """Returns a single line of visible text, at most `maximum` characters, without spaces around it."""
    if not isinstance(value, str) or not value:
        raise InvalidValueError(field, value, "must be text and not empty")
    if len(value) > maximum:
        raise InvalidValueError(field, value, f"at most {maximum} characters")
    if value != value.strip() or not is_clean(value):
        raise InvalidValueError(field, value, "no spaces around it, and no control or invisible characters")
    return _exact(value)


def _exact(value: str) -> str:
    """Text itself, where it came as a subclass that templates or serializers would treat in a way of their own."""
    return str.__str__(value)


def is_clean(value: str) -> bool:
    """Printable, hence without controls, line breaks and the invisible or direction-changing marks of Unicode."""
    return value.isprintable() and _BLANK.isdisjoint(value)
