"""Names of services in paths: every name has an address, only one, and other addresses are a 404."""

from __future__ import annotations

from urllib.parse import quote, unquote, urljoin

import pytest
from django.urls import resolve, reverse
from django.urls.exceptions import Resolver404
from hypothesis import given
from hypothesis import strategies as st

from tests.parts.hostile import TEXTS

NAMES = st.one_of(st.text("ab./~%\\ \n\u2028\u202e\u0130", min_size=1), st.text(min_size=1)).filter(
    lambda name: "\x00" not in name and all(not 0xD800 <= ord(c) <= 0xDFFF for c in name)
)


def address_of(name: str) -> str:
    return reverse("dashboard:service", args=[name])


@given(NAMES)
def test_address_leads_back_to_its_name(name):
    address = address_of(name)
    assert resolve(unquote(address)).kwargs == {"name": name}
    assert urljoin("http://registry.example/", address).removeprefix("http://registry.example") == address


@pytest.mark.parametrize("name", ["backend-api", "a/b", "Größe", "a b", "api.v2", "..."])
def test_plain_name_stands_in_its_address(name):
    assert address_of(name) == f"/services/{quote(name)}/"


@pytest.mark.parametrize("name", [name for name in TEXTS.values() if "\x00" not in name], ids=ascii)
def test_address_of_a_mirrored_name_fits_into_a_request_line(name):
    assert len(quote(quote(address_of(name[:512])))) < 4000


@pytest.mark.parametrize(
    "text", ["\x00", "a\x00", "~", "~YQ", "~!", "~YQ==", "~AA", "~_w", "..", "a//b", "~Li4 ", "a\u2028"]
)
def test_other_text_is_no_address(text):
    with pytest.raises(Resolver404):
        resolve(f"/services/{text}/")


def test_page_of_a_name_with_nul_is_missing(db, operator):
    assert operator.get("/services/%00/").status_code == 404
    assert operator.get("/services/a%00b/").status_code == 404
    assert operator.get("/services/api/").status_code == 404
