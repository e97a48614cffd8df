"""docs/how-to/automate.md: its examples work, and what it says of the API's addresses is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone

from registry_admin.api.schemas import MAX_LIMIT
from registry_admin.api.tokens import make_token
from registry_admin.api.urls import document
from tests.parts import mirrored

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "automate.md").read_text()
EXAMPLES = re.findall(r'curl .*"\$SITE(/api/v1/[^"]*)"', PAGE)


@pytest.mark.django_db
@pytest.mark.parametrize("address", EXAMPLES)
def test_example_of_the_page_is_answered(address):
    mirrored.look()
    mirrored.declare("backend-api")
    _, token = make_token("docs", days=1, now=timezone.now())
    response = Client().get(address, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 200


@pytest.mark.django_db
def test_service_that_is_well_has_the_text_that_the_loop_waits_for():
    mirrored.look()
    mirrored.declare("backend-api")
    _, token = make_token("docs", days=1, now=timezone.now())
    response = Client().get("/api/v1/services/backend-api", headers={"Authorization": f"Bearer {token}"})
    assert b'"health": "passing"' in response.content
    mirrored.fail("backend-api-127.0.0.1-8000")
    response = Client().get("/api/v1/services/backend-api", headers={"Authorization": f"Bearer {token}"})
    assert b'"health": "passing"' not in response.content


def test_page_names_each_address_and_limit():
    assert len(EXAMPLES) == 5
    named = set(re.findall(r"^\| `(/[^`]+)` \|", PAGE, re.MULTILINE))
    paths = {path.removeprefix("/api/v1").replace("{name}", "NAME") for path in document()["paths"]}
    assert named == paths
    assert f"at most {MAX_LIMIT}" in PAGE
