"""The admin's forms: what people type becomes a declaration, or an error at the field that is wrong."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.test import RequestFactory

from registry_admin.inventory.forms import MetaField, TagsField
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db

ADD = "/admin/inventory/service/add/"


def form_data(*instances: dict[str, object], initial: int = 0, **fields: object) -> dict[str, object]:
    """What a browser sends for a service with these instances."""
    data: dict[str, object] = {
        "name": "api", "description": "", "owner": "", "documentation_url": "", "enabled": "on", "tags": "", "meta": "",
        "check_kind": "http", "check_scheme": "http", "check_path": "/health", "check_interval": "10s",
        "check_timeout": "5s", "deregister_after": "30s",
        "instances-TOTAL_FORMS": str(len(instances)), "instances-INITIAL_FORMS": str(initial),
    }  # fmt: skip
    for number, instance in enumerate(instances):
        row = {"address": "10.0.0.1", "port": "80", "consul_id": "", "weight": "1", "extra_tags": "",
               "extra_meta": "", "enabled": "on"} | instance  # fmt: skip
        data |= {f"instances-{number}-{name}": value for name, value in row.items()}
    return data | fields


def errors(response) -> dict[str, list[str]]:
    """By field, those of the service and those of its instances."""
    assert response.status_code == 200, "it was saved"
    context = response.context
    found = dict(context["adminform"].form.errors)
    for formset in context["inline_admin_formsets"]:
        for form in formset.formset.forms:
            found |= form.errors
        if formset.formset.non_form_errors():
            found["__all__"] = formset.formset.non_form_errors()
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "   "), ("name", "../../leave"), ("name", "a/b"), ("name", "a%2Fb"), ("name", "a?x#y"),
        ("name", "x" * 10_240), ("name", "api\u202e"), ("name", "\u0430pi"), ("name", "consul"), ("name", "a\x00b"),
        ("check_interval", "0s"), ("check_interval", "-1s"), ("check_interval", "1ns"), ("check_interval", "10"),
        ("check_interval", "10000000h"), ("check_interval", ""), ("check_timeout", "1h"), ("deregister_after", "soon"),
        ("check_path", "https://evil/"), ("check_path", "//evil/x"), ("check_path", "/a/../../admin"),
        ("check_path", "/%2e%2e/admin"), ("check_path", "/%0d%0a"), ("check_path", "health"),
        ("check_kind", "script"), ("check_kind", "docker"), ("check_scheme", "gopher"),
        ("tags", "a\u200bb"), ("tags", "x" * 256), ("meta", "no equals sign"), ("meta", "a = 1\na = 2"),
        ("meta", "consul-x = 1"), ("meta", "registry-owner = me"), ("meta", "a = " + "x" * 513), ("meta", "= x"),
        ("meta", "\n".join(f"k{number} = v" for number in range(65))), ("documentation_url", "javascript:alert(1)"),
        ("documentation_url", "ftp://x"),
    ],
)  # fmt: skip
def test_a_bad_field_of_a_service_is_an_error_at_that_field(operator, field, value):
    assert set(errors(operator.post(ADD, form_data({}, **{field: value})))) == {field}
    assert not Service.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", ""), ("address", "evil@host"), ("address", "http://x/"), ("address", "127.1"),
        ("address", "2130706433"), ("address", "169.254.169.254"), ("address", "::ffff:169.254.169.254"),
        ("address", "metadata.google.internal"), ("address", "0.0.0.0"), ("address", "x" * 300),
        ("port", ""), ("port", "0"), ("port", "-1"), ("port", "65536"), ("port", "99999999999999999999"), ("port", "x"),
        ("weight", "0"), ("weight", "65536"), ("consul_id", "../../leave"), ("consul_id", "a%2Fb"),
        ("consul_id", "a?x#y"), ("consul_id", "x" * 241), ("extra_tags", "\u202e"), ("extra_meta", "nonsense"),
        ("extra_meta", "consul-x = 1"),
    ],
)  # fmt: skip
def test_a_bad_field_of_an_instance_is_an_error_at_that_field_and_saves_nothing(operator, field, value):
    assert set(errors(operator.post(ADD, form_data({}, {"address": "10.0.0.9"} | {field: value})))) == {field}
    assert not Service.objects.exists()
    assert not Instance.objects.exists()


def test_an_instance_on_consul_s_own_port_is_an_error_at_the_port(operator, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:8555")
    instance = {"address": "::ffff:127.0.0.1", "port": "8555"}
    found = errors(operator.post(ADD, form_data(instance)))
    assert set(found) == {"port"}
    assert "Consul's own API" in found["port"][0]


def test_a_name_that_exists_in_another_case_is_an_error_at_the_form(operator):
    Service.objects.create(name="API")
    found = errors(operator.post(ADD, form_data()))
    assert "upper and lower case are the same" in str(found)
    assert Service.objects.count() == 1


@pytest.mark.parametrize(("first", "second"), [("same", "same"), ("same", "SAME"), ("", "api-10.0.0.1-80")])
def test_two_new_instances_with_one_service_id_are_an_error_and_not_a_broken_page(operator, first, second):
    data = form_data({"consul_id": first}, {"consul_id": second, "port": "81"})
    assert "this service ID already" in str(errors(operator.post(ADD, data)))
    assert not Service.objects.exists()


def test_two_new_instances_at_one_address_are_an_error(operator):
    assert errors(operator.post(ADD, form_data({"consul_id": "a"}, {"consul_id": "b"})))
    assert not Service.objects.exists()


def test_all_that_can_be_declared_is_saved_and_shown_again_as_it_was_typed(operator):
    data = form_data(
        {"address": "10.0.0.1", "extra_tags": "eu, big", "extra_meta": "zone = a", "weight": "5"},
        {"address": "2001:db8::1", "port": "81", "consul_id": "mine", "enabled": ""},
        description="What it does", owner="team blue", documentation_url="docs.example/api", tags="v1 api,v1",
        meta="team = blue\n\nequation = a=b=c\nempty =", check_kind="tcp", check_interval="1m30s", deregister_after="",
    )  # fmt: skip
    assert operator.post(ADD, data).status_code == 302
    service = Service.objects.get()
    assert service.tags == ["api", "v1"]
    assert service.meta == {"empty": "", "equation": "a=b=c", "team": "blue"}
    assert (service.check_interval, service.deregister_after) == ("90s", "")
    assert service.documentation_url == "https://docs.example/api"
    assert {row.consul_id: row.extra_tags for row in service.instances.all()} == {
        "api-10.0.0.1-80": ["big", "eu"],
        "mine": [],
    }
    form = operator.get(f"/admin/inventory/service/{service.pk}/change/").context["adminform"].form
    assert form["tags"].value() == "api, v1"
    assert form["meta"].value() == "empty = \nequation = a=b=c\nteam = blue"


def test_saving_a_form_that_nobody_has_touched_changes_nothing(operator, rf: RequestFactory):
    assert operator.post(ADD, form_data({"extra_tags": "b a", "extra_meta": "k = v"}, meta="a = b")).status_code == 302
    service = Service.objects.get()
    response = operator.get(f"/admin/inventory/service/{service.pk}/change/")
    shown = response.context["adminform"].form
    formset = response.context["inline_admin_formsets"][0].formset
    data = {name: shown[name].value() for name in shown.fields}
    for form in formset.forms:
        data |= {form.add_prefix(name): form[name].value() for name in form.fields}
    data |= {f"instances-{name}": formset.management_form[name].value() for name in formset.management_form.fields}
    data = {name: value for name, value in data.items() if value is not None and value is not False}
    model_admin = admin.site._registry[Service]
    request = rf.post("/", data)
    request.user = response.wsgi_request.user
    bound = model_admin.get_form(request, service)(data, instance=service)
    assert bound.is_valid(), bound.errors
    assert bound.changed_data == []
    (inline,) = [formset for formset, _ in model_admin.get_formsets_with_inlines(request, service)]
    bound_instances = inline(data, instance=service, prefix="instances")
    assert bound_instances.is_valid(), bound_instances.errors
    assert not bound_instances.has_changed()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("", []), ("a", ["a"]), ("a, b", ["a", "b"]), ("a b  c", ["a", "b", "c"]), (",,a,,", ["a"]), (None, [])],
)
def test_tags_are_words_with_commas_or_spaces_between_them(typed, meant):
    assert TagsField().clean(typed) == meant


@pytest.mark.parametrize("pairs", [{}, {"a": ""}, {"a": "b", "c": "d = e"}, {"k": "Grüße, 世界"}])
def test_meta_survives_being_shown_and_typed_again(pairs):
    field = MetaField()
    assert field.clean(field.prepare_value(pairs)) == pairs


def test_a_line_of_meta_that_is_wrong_is_named():
    from django.core.exceptions import ValidationError

    with pytest.raises(ValidationError, match="Line 2 has no '='"):
        MetaField().clean("a = b\nnonsense")


def test_an_instance_that_moves_in_the_form_takes_its_default_service_id_along(operator):
    operator.post(ADD, form_data({}))
    service, instance = Service.objects.get(), Instance.objects.get()
    row = {"id": str(instance.pk), "service": str(service.pk), "consul_id": instance.consul_id, "port": "81"}
    response = operator.post(f"/admin/inventory/service/{service.pk}/change/", form_data(row, initial=1))
    assert response.status_code == 302
    instance.refresh_from_db()
    assert (instance.port, instance.consul_id) == (81, "api-10.0.0.1-81")


def test_a_service_that_is_renamed_in_the_form_keeps_the_ids_of_its_instances(operator):
    operator.post(ADD, form_data({}))
    service, instance = Service.objects.get(), Instance.objects.get()
    row = {"id": str(instance.pk), "service": str(service.pk), "consul_id": instance.consul_id}
    data = form_data(row, initial=1, name="renamed")
    assert operator.post(f"/admin/inventory/service/{service.pk}/change/", data).status_code == 302
    instance.refresh_from_db()
    assert (instance.service.name, instance.consul_id) == ("renamed", "api-10.0.0.1-80")


def test_a_service_with_two_hundred_instances_can_be_saved(operator):
    many = [{"port": str(8000 + number)} for number in range(200)]
    assert operator.post(ADD, form_data(*many)).status_code == 302
    assert Instance.objects.count() == 200
