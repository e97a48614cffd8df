"""Random requests at every address, by every role: none is answered with a 5xx."""

from __future__ import annotations

import os
from random import Random
from urllib.parse import urlencode

import pytest

from tests.access.test_walk import METHODS, ROLES, addresses, site

__all__ = ["site"]

pytestmark = pytest.mark.django_db

NUMBER = int(os.environ.get("FUZZ_REQUESTS", "400"))
KEYS = (  # noqa: SIM905 - fifty of them
    "q page before sort health sync window service since after outcome trigger actor e o p all _popup "
    "_to_field _changelist_filters id__exact name__regex pk__in next action _selected_action confirmed what "
    "item digest phrase instance reason kept text file format username password name module "
    "instances-TOTAL_FORMS instances-INITIAL_FORMS instances-0-port removals index select_across app_label model_name "
    "field_name term "
).split()
VALUES = (
    "",
    "1",
    "-1",
    "0",
    "9" * 400,
    "1e308",
    "nan",
    "x",
    "\x00",
    "a\x00b",
    "\ud800",
    "\N{ARABIC-INDIC DIGIT FOUR}",
    "\u2028",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
    "%",
    "{}",
    "[]",
    "null",
    "__proto__",
    "constructor",
    "sync",
    "disable",
    "release",
    "adopt",
    "try_check",
    "maintenance_on",
    "delete_selected",
    "sync_now",
    "revoke",
    "confirm",
    "yes",
    "all",
    "critical",
    "-name",
    "7d",
    "api",
    "\N{SNOWMAN}" * 300,
    "2026-13-45",
    "00000000-0000-0000-0000-000000000000",
)
TYPES = (
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json",
    "text/plain",
    "",
    "\xff",
)


def random_query(random: Random) -> str:
    pairs = [(random.choice(KEYS), random.choice(VALUES)) for _ in range(random.randrange(5))]
    return urlencode(pairs, errors="surrogatepass") + random.choice(("", "&&=", "&%ff=%fe", "#"))


def random_body(random: Random) -> bytes:
    return random.choice(
        (random_query(random).encode(), b"", b"{", b"[" * 2000, b"--x\r\n\r\n--x--", random.randbytes(50))
    )


@pytest.mark.filterwarnings("ignore")  # what Django says of odd requests is for its log
def test_random_requests_give_no_server_error(site, monkeypatch):
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    random, paths = Random(seed), [path for path in addresses().values() if path != "/admin/logout/"]
    methods = [method for kind in METHODS.values() for method in kind] + ["POST", "POST", "TRACE", "BREW"]
    statuses: dict[int, int] = {}
    for number in range(NUMBER):
        role, path, method = random.choice(ROLES), random.choice(paths), random.choice(methods)
        if random.random() < 0.2:
            path += random.choice(("/", "//", "%00", "%2e%2e/", "x", "?", "\N{SNOWMAN}", "%ff"))
        headers = {"X-Registry-Live": "1"} if random.random() < 0.2 else {}
        headers |= {name: random.choice(VALUES) for name in ("If-None-Match", "Authorization") if random.random() < 0.1}
        site[role].raise_request_exception = False
        query, body, kind = random_query(random), random_body(random), random.choice(TYPES)
        response = site[role].generic(method, f"{path}?{query}", body, kind, headers=headers)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, (seed, number, role, method, path, query, body, kind)
    assert {200, 302, 403, 404, 405} <= statuses.keys()
