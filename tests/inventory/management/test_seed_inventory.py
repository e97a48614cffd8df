"""`manage.py seed_inventory`: declaring from the command line."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db


def seed(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("seed_inventory", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_seed_inventory_declares_services_and_instances():
    out, err = seed("api=10.0.0.1:8000,10.0.0.2:8000", "db=tcp://10.0.0.3:5432", "v6=[2001:db8::1]:80")
    assert err == ""
    assert out.splitlines()[0] == "declared api with 2 instance(s)"
    assert set(Instance.objects.values_list("consul_id", flat=True)) == {
        "api-10.0.0.1-8000", "api-10.0.0.2-8000", "db-10.0.0.3-5432", "v6-2001:db8::1-80",
    }  # fmt: skip
    assert dict(Service.objects.values_list("name", "check_kind")) == {"api": "http", "db": "tcp", "v6": "http"}


def test_seed_inventory_leaves_declared_service_unchanged():
    seed("api=10.0.0.1:8000")
    out, err = seed("API=10.0.0.9:9", "api=10.0.0.9:9", "new=10.0.0.1:1")
    assert out == "declared new with 1 instance(s)\n"
    assert err.splitlines() == ["API is declared already: left as it is.", "api is declared already: left as it is."]
    assert Instance.objects.filter(service__name="api").get().address == "10.0.0.1"


def test_seed_inventory_if_empty_skips_filled_inventory():
    seed("--if-empty", "api=10.0.0.1:8000")
    out, err = seed("--if-empty", "new=10.0.0.1:8000")
    assert (out, err) == ("", "The inventory isn't empty: nothing was declared.\n")
    assert Service.objects.count() == 1


@pytest.mark.parametrize(
    "wrong",
    ["api", "api=", "=10.0.0.1:80", "a/b=10.0.0.1:80", "api=10.0.0.1", "api=10.0.0.1:0", "api=10.0.0.1:70000",
     "api=10.0.0.1:eighty", "api=evil@host:80/x y", "api=169.254.169.254:80", "api=127.1:80", "api=10.0.0.1:80,",
     "api=10.0.0.1:80,10.0.0.1:80", "consul=10.0.0.1:80", "api=[::1:80", "api=\x1b[31m:80"],
)  # fmt: skip
def test_seed_inventory_invalid_argument_is_named_and_declares_nothing(wrong):
    with pytest.raises(CommandError) as refused:
        seed("good=10.0.0.1:8000", wrong)
    assert str(refused.value).startswith(wrong.replace("\x1b", r"\x1b"))
    assert str(refused.value).isprintable()
    assert not Service.objects.exists()
