"""The page for a request that failed."""

from __future__ import annotations

import pytest
from django.db import OperationalError

from registry_admin.access.views import server_error
from registry_admin.errors import DatabaseUnavailableError


def page_for(error: Exception, rf) -> tuple[int, str]:
    try:
        raise error
    except type(error):
        response = server_error(rf.get("/"))
    return response.status_code, response.content.decode()


@pytest.mark.parametrize("kind", [OperationalError, DatabaseUnavailableError])
def test_server_error_of_the_database_is_503_without_its_address(kind, rf):
    status, page = page_for(kind("connection to db.internal failed: password of registry"), rf)
    assert (status, "db.internal" in page, "It can&#x27;t be reached." in page) == (503, False, True)


def test_server_error_of_anything_else_is_500(rf):
    status, page = page_for(ValueError("a fault"), rf)
    assert (status, "a fault" in page) == (500, False)
