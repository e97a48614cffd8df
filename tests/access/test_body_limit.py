"""Bodies that are too large are refused before a byte of them is read, whoever sends them."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.test import Client, RequestFactory

pytestmark = pytest.mark.django_db

HUGE = 300_000_000


class Unread:
    """A body that nobody has read from; reading it is what the test forbids."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self, *_size: int) -> bytes:
        self.reads += 1
        return b""

    readline = read


def send(client: Client, path: str, *, length: str = str(HUGE)) -> tuple[int, int]:
    """Returns the status and how often the body was read."""
    body = Unread()
    boundary = "multipart/form-data; boundary=x"
    token = "a" * 32
    client.cookies["csrftoken"] = token  # with a cookie, the token is looked for in the body
    response = client.generic("POST", path, CONTENT_TYPE=boundary, CONTENT_LENGTH=length, **{"wsgi.input": body})
    return response.status_code, body.reads


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/drift/", "/services/api/", "/admin/inventory/service/add/"])
def test_large_body_is_refused_unread(path, operator):
    for client in (Client(enforce_csrf_checks=True), operator):
        assert send(client, path) == (413, 0)


def test_large_document_before_login_is_not_read(client_of, make_user):
    assert send(Client(enforce_csrf_checks=True), "/admin/inventory/service/import/") == (302, 0)
    viewer = client_of(make_user("view_service"))
    assert send(viewer, "/admin/inventory/service/import/") == (403, 0)


def test_large_report_is_refused_unread_and_only_after_the_token():
    assert send(Client(), "/api/calls") == (413, 0)
    assert send(Client(), "/api/calls", length="1000") == (401, 0)


@pytest.mark.parametrize("length", ["-1", "x", "\N{ARABIC-INDIC DIGIT NINE}" * 3, "9" * 50])
def test_odd_length_is_no_error(length):
    assert send(Client(enforce_csrf_checks=True), "/admin/login/", length=length)[0] in (403, 413)


def test_form_of_usual_size_is_taken(operator):
    text = "x" * 1_000_000
    assert operator.post("/drift/", {"item": text}).status_code == 302
    request = RequestFactory().post("/", {"item": "x"})
    assert isinstance(request, WSGIRequest)
    assert int(request.META["CONTENT_LENGTH"]) < settings.MAX_BODY_BYTES
