"""Each rule, each bad input that we could think of, and what must hold for whatever is accepted."""

from __future__ import annotations

import ipaddress
import itertools
from contextlib import suppress
from enum import IntEnum
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError


class Text(str):
    """Text that a template would trust, like Django's SafeString."""

    __slots__ = ()


class Port(IntEnum):
    WEB = 8000


NOT_TEXT = [None, 1, b"backend", ["backend"], {"a": 1}, True, object()]
BAD_EVERYWHERE = [
    *NOT_TEXT,
    "",
    " ",
    "   ",
    " a",
    "a ",
    "a\n",
    "\na",
    "a\r\nb",
    "a\tb",
    "a\x00b",
    "a\x1bb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\u200bb",  # zero width space
    "a\u202eb",  # right-to-left override
    "a\u2066b",
    "\ufeffa",
    "a\ud800",  # half of a surrogate pair
    "\u3164",  # a letter to Unicode, nothing to the eye
    "a\u2800",
]
BAD_NAMES = [
    *BAD_EVERYWHERE,
    ".",
    "..",
    "../../leave",
    "a/b",
    "a%2Fb",
    "a?x#y",
    "a\\b",
    "a b",
    "a,b",
    "a;b",
    "-a",
    "a-",
    ".a",
    "a.",
    "_a",
    "bаckend",  # a Cyrillic letter
    "ｂackend",
    "backend１",
    "caf\u00e9",
    "a" * 10_000,
    "<script>",
    "${jndi:x}",
    "a@b",
]


def refused(function, value, **options):
    with pytest.raises(InvalidValueError) as caught:
        function(value, **options)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    return caught.value


# -- names and IDs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*BAD_NAMES, "a:b", "a" * 129])
def test_bad_name_is_refused(value):
    assert refused(validation.service_name, value).field == "name"


@pytest.mark.parametrize("value", ["a", "A", "9", "backend-api", "backend_api", "a.b", "Backend.API-2", "a" * 128])
def test_good_name_is_kept_as_it_is(value):
    assert validation.service_name(value) == value


ONLY_IN_IDS = ("a/b", "_a")


@pytest.mark.parametrize(
    "value",
    [
        *(name for name in BAD_NAMES if name not in ONLY_IN_IDS),
        "a:",
        ":a",
        "a/",
        "//a",
        "a//b",
        "/..",
        "a/../b",
        "a" * 241,
    ],
)
def test_bad_id_is_refused(value):
    assert refused(validation.service_id, value).field == "service_id"
    if value != "a" * 241:  # a check's ID has room for what is added to a service's
        assert refused(validation.check_id, value).field == "check_id"


@pytest.mark.parametrize(
    "value",
    [
        *ONLY_IN_IDS,
        "/a/b",
        "_nomad-task-1b2c-group-web-http-8080",
        "a",
        "backend-api-127.0.0.1-8000",
        "b-::1-80",
        "a" * 240,
    ],
)
def test_good_id_is_kept_as_it_is(value):
    assert validation.service_id(value) == value


@pytest.mark.parametrize("value", ["consul", "Consul", "CONSUL"])
def test_consuls_own_name_may_be_read_but_not_registered(value):
    assert validation.service_name(value) == value
    refused(validation.not_consul_itself, value, field="name")


def test_text_that_a_template_would_trust_becomes_plain_text():
    for function in (validation.service_name, validation.service_id, validation.address):
        assert type(function(Text("backend"))) is str
    assert type(validation.http_path(Text("/a"))) is str
    assert {type(tag) for tag in validation.tags([Text("<b>")])} == {str}
    assert {type(text) for pair in validation.meta({Text("k"): Text("v")}).items() for text in pair} == {str}
    assert {type(text) for pair in validation.headers({Text("k"): Text("v")}).items() for text in pair} == {str}


# -- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *BAD_EVERYWHERE,
        # not an address, or more than one
        "evil@host",
        "user:pass@host",
        "http://host",
        "host:80",
        "host/path",
        "host\\path",
        "host?x",
        "host#x",
        "a b",
        "a,b",
        "[::1]",
        "-host",
        "host-",
        "a..b",
        "host..",
        ".",
        "...",
        ".host",
        "%41",
        "hоst",  # a Cyrillic letter
        "①②⑦.⓪.⓪.①",
        "１２７.0.0.1",
        "a" * 64,
        "a." * 130 + "b",
        # read as an IPv4 address by resolvers, but written otherwise
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0X7F.0.0.0x1",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "1.2.3.4.5",
        "256.1.1.1",
        "0",
        "0x",
        # of no use to others
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::1%lo",
        "fe80::1%eth0",
        "2001:db8::1%1",
    ],
)
def test_bad_address_is_refused(value):
    assert refused(validation.address, value).field == "address"


@pytest.mark.parametrize(
    "value",
    [
        "169.254.169.254",
        "169.254.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fe80::1",
        "FE80::1",
        "fd00:ec2::254",
        "fd00:0ec2:0:0:0:0:0:254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "0:0:0:0:0:ffff:a9fe:a9fe",
        "::169.254.169.254",  # IPv4-compatible
        "::ffff:0:169.254.169.254",  # translated
        "64:ff9b::169.254.169.254",  # NAT64
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::1",  # 6to4
        "2001:0:a9fe:a9fe:0:0:0:1",  # Teredo's server
        "2001:0:102:304:0:0:5601:5601",  # Teredo's client, inverted
        "64:ff9b::100.100.100.200",
        "metadata.google.internal",
        "METADATA.Google.internal",
        "metadata.google.internal.",
        "metadata",
        "metadata.goog",
        "instance-data",
    ],
)
def test_cloud_metadata_address_is_refused_in_every_spelling(value):
    assert "metadata" in refused(validation.address, value).reason


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("64:ff9b::8.8.8.8", "64:ff9b::808:808"),
        ("localhost", "localhost"),
        ("backend", "backend"),
        ("my_host.internal", "my_host.internal"),
        ("host.example.", "host.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63, "a" * 63),
    ],
)
def test_good_address_is_returned_in_its_canonical_form(value, canonical):
    assert validation.address(value) == canonical


@given(st.ip_addresses().map(str) | st.from_regex(r"[A-Za-z0-9.:%\[\]_-]{1,40}", fullmatch=True))
@example("::ffff:1.2.3.4")
def test_accepted_address_is_one_host_in_a_url_and_stays_as_it_is(value):
    try:
        accepted = validation.address(value)
    except InvalidValueError:
        return
    assert validation.address(accepted) == accepted
    in_url = f"[{accepted}]" if ":" in accepted else accepted
    parts = urlsplit(f"http://{in_url}:80/x")
    assert (parts.hostname, parts.port, parts.path) == (accepted.lower(), 80, "/x")


@given(st.ip_addresses(v=4, network="169.254.0.0/16") | st.ip_addresses(v=6, network="fe80::/10"))
def test_link_local_address_is_refused_in_every_form(ip):
    spellings = [str(ip)]
    if isinstance(ip, ipaddress.IPv4Address):
        spellings += [f"{prefix}{ip}" for prefix in ("::", "::ffff:", "::ffff:0:", "64:ff9b::")]
        spellings.append(f"2002:{int(ip) >> 16:x}:{int(ip) & 0xFFFF:x}::")
    for spelling in spellings:
        refused(validation.address, spelling)


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [validation.port, validation.weight])
@pytest.mark.parametrize(
    "value", [0, -1, 65536, 99999, 10**40, "80", "", b"80", 80.0, float("nan"), True, False, None, [80], 80 + 0j]
)
def test_bad_number_is_refused(function, value):
    refused(function, value)


def test_number_too_long_to_print_is_refused_all_the_same():
    refused(validation.port, 10**5000)
    refused(validation.tags, [10**5000])


@pytest.mark.parametrize("function", [validation.port, validation.weight])
def test_good_number_is_returned_as_a_plain_one(function):
    assert function(1) == 1
    assert function(65535) == 65535
    assert type(function(Port.WEB)) is int


# -- durations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *BAD_EVERYWHERE, "0s", "-1s", "+1s", "1ns", "1us", "1µs", "10", "10 s", "10S", "1d", "s", "10000000h",
        "24h1s", "1e3s",
        "1.s", ".5s", "1,5s", "١٠s", "１０s", "1m 30s", "999ms", "0.9999s", "9" * 60 + "s", "1s" * 33, "inf", "nans",
        "1s;",
    ],
)  # fmt: skip
def test_bad_duration_is_refused(value):
    refused(validation.duration, value)


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ("10s", "10s"),
        ("1m30s", "90s"),
        ("1000ms", "1s"),
        ("1.5s", "1.5s"),
        ("24h", "86400s"),
        ("0.5m", "30s"),
        ("007s", "7s"),
    ],
)
def test_good_duration_is_returned_in_seconds(value, canonical):
    assert validation.duration(value) == canonical
    assert validation.seconds(value) == validation.seconds(canonical)


@given(
    st.lists(
        st.tuples(st.decimals(0, 99_999, places=3), st.sampled_from(["ms", "s", "m", "h"])), min_size=1, max_size=4
    )
)
def test_accepted_duration_keeps_its_length_and_form(parts):
    text = "".join(f"{number}{unit}" for number, unit in parts)
    try:
        accepted = validation.duration(text)
    except InvalidValueError:
        return
    assert validation.duration(accepted) == accepted
    assert validation.seconds(accepted) == pytest.approx(validation.seconds(text), abs=0.001)
    assert 1 <= validation.seconds(accepted) <= validation.MAX_DURATION_S


def test_limits_of_a_duration_are_the_callers():
    assert validation.duration("100ms", minimum_s=0.1) == "0.1s"
    assert "0.1s" in refused(validation.duration, "99ms", minimum_s=0.1).reason


# -- tags and meta -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*BAD_EVERYWHERE, "a" * 256])
def test_bad_tag_is_refused(value):
    refused(validation.tags, [value])


@pytest.mark.parametrize("value", ["api", b"api", None, 1, {"api": 1}, [["api"]], ["api", None]])
def test_tags_are_a_list_of_words(value):
    refused(validation.tags, value)


def test_tags_are_sorted_and_without_repeats():
    assert validation.tags(["v1", "api", "v1", "primary db", "été"]) == ("api", "primary db", "v1", "été")
    assert validation.tags(f"t{n}" for n in range(128))
    assert validation.tags(()) == ()


def test_tags_without_end_are_refused_and_not_waited_for():
    refused(validation.tags, (f"t{n}" for n in itertools.count()))


@pytest.mark.parametrize(
    "value",
    [
        None, "a=b", [("a", "b")], {"a": 1}, {"a": None}, {"a": b"x"}, {1: "a"}, {"": "a"}, {"a b": "x"},
        {"a.b": "x"},
        {"é": "x"}, {"a\n": "x"}, {"a" * 129: "x"}, {"a": "x" * 513}, {"a": "é" * 257}, {"a": "x\ny"},
        {"a": "\u202e"},
        {"a": "\ud800"}, {"a": "\x00"}, {"consul-x": "y"}, {"Consul-X": "y"}, {f"k{n}": "v" for n in range(65)},
    ],
)  # fmt: skip
def test_bad_meta_is_refused(value):
    assert refused(validation.meta, value).field.startswith("meta")


def test_good_meta_is_returned_sorted():
    value = {"version": "1.4", "a" * 128: "x" * 512, "empty": "", "words": "une phrase, été"}
    assert validation.meta(value) == value
    assert list(validation.meta(value)) == sorted(value)
    assert len(validation.meta({f"k{n}": "v" for n in range(64)})) == 64


def test_reserved_keys_and_a_lower_limit_are_the_callers():
    refused(validation.meta, {"ours": "x"}, reserved={"ours"})
    refused(validation.meta, {"a": "", "b": ""}, maximum=1)


# -- paths ---------------------------------------------------------------------------------------------------

CLIMBING = [
    "/..", "/.", "/../", "/a/..", "/a/../../admin", "/a/./b", "/%2e%2e/admin", "/%2E%2e", "/.%2e", "/%2e",
    "/a/%2e%2e%2fadmin",
    "/%252e%252e/admin", "/%25252e%25252e/", "/a%2f..%2fb", "/a%2f%2e%2e", "/..;/admin", "/..;x=1/admin",
    "/a;/../b", "/a;..",
    "/%2e%2e%3b/x", "/..%5cx", "/a%5c..%5cb", "/a/..?q=1", "/..%00", "/..%20/x", "/.../x", "/..%2e", "/a%3f/../b",
    "/a%23/..",
    "/%c0%ae%c0%ae/x", "/%e0%80%ae", "/%EF%BC%8E%EF%BC%8E/x", "/%E2%80%A5/x", "/%EF%BC%8F..%EF%BC%8Fx",
]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        *NOT_TEXT, *CLIMBING, "", "a", "*", "?a", "a/b", "//evil/x", "///evil", "/a//b", "https://evil/",
        "http:/evil",
        "\\evil", "/\\evil", "/a\\b", "/%5cevil", "/%5Cevil", "/%2fevil", "/%2Fevil", "/%252fevil", "/a%2f%2fb",
        "@evil",
        "/a\x00", "/a%00", "/a\r\nHost: x", "/a%0d%0aHost:%20x", "/a%250d%250a", "/a%0", "/a%", "/a%zz", "/a%u002e",
        "/a?b%0d%0ac", "/a?b\nc", "/a b", "/a\tb", "/\t/evil", "/é", "/a#b", "/a?b#c", "/<script>", '/"', "/{x}",
        "/a|b", "/^",
        "/a%E2%80%AEb", "/a%ff", "/" + "a" * 2048, "/" + "a" * 100_000, "/" + "%25" * 700 + "2e",
    ],
)  # fmt: skip
def test_path_that_could_change_the_host_or_climb_is_refused(value):
    assert refused(validation.http_path, value).field == "path"


@pytest.mark.parametrize(
    "value",
    [
        "/", "/health", "/health/", "/a/b.c/d..e/...f", "/.well-known/x", "/a..b", "/a?b=c&d=../..",
        "/a?u=https://x//y",
        "/caf%C3%A9", "/a%20b", "/100%25", "/~me/@x/a:b/(c)/!$&'*+,=", "/a;v=1", "/a%2Fb", "/x?", "/[a]",
        "/a?b=%C3%A9",
    ],
)  # fmt: skip
def test_plain_path_is_kept_as_it_is(value):
    assert validation.http_path(value) == value


PIECES = st.sampled_from(
    ["/", ".", "..", "%2e", "%2E", "%252e", "%2f", "%5c", "\\", ";", "?", "#", "@", ":", "a", "evil", "%", "25",
    "%25", "//", " ",
     "%20", "%00", "%c0%ae", "%EF%BC%8E", "\n", "é", "&", "="]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)))
def test_accepted_path_keeps_the_host_and_never_climbs_whatever_decodes_it(value):
    try:
        accepted = validation.http_path(value)
    except InvalidValueError:
        return
    assert accepted == value
    base = "http://host:8000/base"
    path = urlsplit(base + accepted).path
    for _ in range(4):
        for joined in (urlsplit(base + accepted), urlsplit(urljoin(base, accepted))):
            assert joined.netloc == "host:8000"
        depth = 0
        for segment in path.replace("\\", "/").removeprefix("/base").split("/")[1:]:
            depth += {"..": -1, ".": 0, "": 0}.get(segment.partition(";")[0], 1)
            assert depth >= 0
        path = unquote(path)


@given(st.text(max_size=30))
def test_random_text_is_a_segment_or_a_typed_error(text):
    try:
        path = "/" + quote(text, safe="")
    except UnicodeEncodeError:  # half of a surrogate pair
        path = "/" + text
    with suppress(InvalidValueError):
        assert validation.http_path(path) == path


def test_query_is_not_shown_because_it_may_hold_a_secret():
    assert "hunter2" not in str(refused(validation.http_path, "/a?password=hunter2\n"))
    assert "hunter2" not in str(refused(validation.http_path, "a?password=hunter2"))
    assert "hunter2" not in str(refused(validation.http_path, "/..?password=hunter2").value)


# -- methods and headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *NOT_TEXT,
        "",
        "GET /x",
        "GET\r\n",
        " GET",
        "GET ",
        "G-T",
        "GÉT",
        "ＧＥＴ",
        "ß",
        "A" * 21,
        "CONNECT",
        "trace",
        "1",
    ],
)
def test_bad_method_is_refused(value):
    refused(validation.method, value)


@pytest.mark.parametrize("value", ["get", "Post", "PUT", "patch", "DELETE", "OPTIONS", "PURGE"])
def test_method_is_returned_in_capitals(value):
    assert validation.method(value) == value.upper()


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "a b", "a:b", "a\n", "a\r\nb", "é", "a\x00", 1, None, b"a", "x" * 129, "Host", "HOST",
        "Transfer-Encoding",
        "content-length", "Content_Length", "Connection", "Keep-Alive", "Upgrade", "TE", "Trailer", "Expect",
        "Proxy-Authorization", "X-Consul-Token", "x_consul_token",
    ],
)  # fmt: skip
def test_header_that_is_not_the_callers_is_refused(name):
    refused(validation.headers, {name: "x"})


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        b"x",
        ["x"],
        "a\r\nb",
        "a\nb",
        "a\rb",
        "a\x00b",
        "a\x0bb",
        "a\x7f",
        "a\x85b",
        "a\u2028b",
        "日本",
        "\ud800",
    ],
)
def test_bad_header_value_is_refused_and_never_shown(value):
    error = refused(validation.headers, {"Authorization": value})
    assert error.field == "headers.Authorization"
    assert error.value == "(not shown)"


def test_secret_in_a_bad_header_is_never_shown():
    for bad in ({"Authorization": "Bearer hunter2\n"}, [("Authorization", "hunter2")], {"Cookie": "hunter2\u2028"}):
        assert "hunter2" not in str(refused(validation.headers, bad))


def test_header_given_twice_is_refused():
    refused(validation.headers, {"X-A": "1", "x-a": "2"})
    refused(validation.headers, {"X-A": "1", "X_A": "2"})


def test_good_headers_are_kept_without_the_spaces_around_them():
    given_ = {"Accept": "application/json", "X-Name": " cafe a\tb ", "Empty": ""}
    assert validation.headers(given_) == {"Accept": "application/json", "X-Name": "cafe a\tb", "Empty": ""}


@pytest.mark.parametrize("value", ["hunter2\n", "hunter2 x", "hunter2\u00e9", "hunter2\x00", b"hunter2", 2])
def test_bad_token_is_refused_and_never_shown(value):
    error = refused(validation.acl_token, value)
    assert "hunter2" not in f"{error} {error.value}"


# -- whatever comes ------------------------------------------------------------------------------------------

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.text()),
    st.dictionaries(st.text(), st.text() | st.integers()),
)  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        validation.service_name, validation.service_id, validation.check_id, validation.address, validation.port,
        validation.weight, validation.duration, validation.tags, validation.meta, validation.http_path,
        validation.method,
        validation.headers, validation.acl_token,
    ],
)  # fmt: skip
@given(value=ANYTHING)
def test_random_value_is_accepted_or_a_typed_error(function, value):
    try:
        accepted = function(value)
    except InvalidValueError:
        return
    assert function(accepted) == accepted


@pytest.mark.parametrize("value", ["", "a,b", "a\n", 7, None])
def test_bad_selected_tag_is_refused(value):
    with pytest.raises(InvalidValueError, match=r"^tag"):
        validation.selected_tag(value)


def test_selected_tag_may_have_spaces_and_slashes():
    assert validation.selected_tag("urlprefix-/foo strip=/foo") == "urlprefix-/foo strip=/foo"
