"""The admin's forms: typed text becomes a declaration, or an error at the invalid field."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from registry_admin.consul import validation
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.admin.forms import InstanceFormSet, MetaField, TagsField
from registry_admin.inventory.models import Instance, Service

pytestmark = pytest.mark.django_db

ADD = "/admin/inventory/service/add/"


def form_data(*instances: dict[str, object], initial: int = 0, **fields: object) -> dict[str, object]:
    """Returns the POST data of a browser for a service with these instances."""
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
    """Returns the errors of the service and its instances by field."""
    assert response.status_code == 200, "it was saved"
    context = response.context
    messages = dict(context["adminform"].form.errors)
    for formset in context["inline_admin_formsets"]:
        for form in formset.formset.forms:
            messages |= form.errors
        if formset.formset.non_form_errors():
            messages["__all__"] = formset.formset.non_form_errors()
    return messages


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
def test_service_form_invalid_value_is_an_error_at_its_field(operator, field, value):
    assert set(errors(operator.post(ADD, form_data({}, **{field: value})))) == {field}
    assert not Service.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "evil@host"), ("address", "http://x/"), ("address", "127.1"),
        ("address", "2130706433"), ("address", "169.254.169.254"), ("address", "::ffff:169.254.169.254"),
        ("address", "metadata.google.internal"), ("address", "0.0.0.0"), ("address", "x" * 300),
        ("port", ""), ("port", "0"), ("port", "-1"), ("port", "65536"), ("port", "99999999999999999999"), ("port", "x"),
        ("weight", "0"), ("weight", "65536"), ("consul_id", "../../leave"), ("consul_id", "a%2Fb"),
        ("consul_id", "a?x#y"), ("consul_id", "x" * 241), ("extra_tags", "\u202e"), ("extra_meta", "nonsense"),
        ("extra_meta", "consul-x = 1"),
    ],
)  # fmt: skip
def test_instance_form_invalid_value_is_an_error_at_its_field(operator, field, value):
    assert set(errors(operator.post(ADD, form_data({}, {"address": "10.0.0.9"} | {field: value})))) == {field}
    assert not Service.objects.exists()
    assert not Instance.objects.exists()


def test_instance_form_port_of_consul_is_an_error_at_the_port(operator, monkeypatch):
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:8555")
    instance = {"address": "::ffff:127.0.0.1", "port": "8555"}
    messages = errors(operator.post(ADD, form_data(instance)))
    assert set(messages) == {"port"}
    assert "Consul's own API" in messages["port"][0]


def test_service_form_existing_name_in_another_case_is_an_error(operator):
    Service.objects.create(name="API")
    messages = errors(operator.post(ADD, form_data()))
    assert "upper and lower case are the same" in str(messages)
    assert Service.objects.count() == 1


@pytest.mark.parametrize(("first", "second"), [("same", "same"), ("same", "SAME"), ("", "api-10.0.0.1-80")])
def test_instance_formset_repeated_service_id_is_an_error(operator, first, second):
    data = form_data({"consul_id": first}, {"consul_id": second, "port": "81"})
    assert "this service ID already" in str(errors(operator.post(ADD, data)))
    assert not Service.objects.exists()


def test_instance_formset_repeated_endpoint_is_an_error(operator):
    assert errors(operator.post(ADD, form_data({"consul_id": "a"}, {"consul_id": "b"})))
    assert not Service.objects.exists()


def test_service_form_saves_and_redisplays_every_field(operator):
    data = form_data(
        {"address": "10.0.0.1", "extra_tags": "eu, big", "extra_meta": "zone = a", "weight": "5"},
        {"address": "2001:db8::1", "port": "81", "consul_id": "mine", "enabled": ""},
        description="What it does", owner="team blue", documentation_url="docs.example/api", tags="v1, api,v1",
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


def test_service_form_resubmitted_has_no_changes(operator, rf: RequestFactory):
    assert operator.post(ADD, form_data({"extra_tags": "b, a", "extra_meta": "k = v"}, meta="a = b")).status_code == 302
    service = Service.objects.get()
    response = operator.get(f"/admin/inventory/service/{service.pk}/change/")
    initial = response.context["adminform"].form
    formset = response.context["inline_admin_formsets"][0].formset
    data = {name: initial[name].value() for name in initial.fields}
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
    ("typed", "expected"),
    [
        ("", []),
        ("a", ["a"]),
        ("a, b", ["a", "b"]),
        ("a b  c", ["a b  c"]),
        (",,a,,", ["a"]),
        ('"a,b", c', ["a,b", "c"]),
        ('say "hi"', ['say "hi"']),
        (None, []),
    ],
)
def test_tags_field_splits_at_commas_that_are_not_quoted(typed, expected):
    assert TagsField().clean(typed) == expected


@pytest.mark.parametrize("pairs", [{}, {"a": ""}, {"a": "b", "c": "d = e"}, {"k": "Grüße, 世界"}])
def test_meta_field_round_trip_keeps_pairs(pairs):
    field = MetaField()
    assert field.clean(field.prepare_value(pairs)) == pairs


def test_meta_field_error_names_the_line():
    with pytest.raises(ValidationError, match="Line 2 has no '='"):
        MetaField().clean("a = b\nnonsense")


TAGS = ['"quoted" start', "a,b", 'say "hi"', "urlprefix-/foo strip=/foo"]
META = {"empty": "", "equation": "a = b", "json": '{"a": "b"}', "quoted": '"x"', "spaces": " x ", "start": '"x'}


def test_form_with_only_the_description_changed_keeps_tags_and_meta(operator):
    service = Service.objects.create(name="api", tags=TAGS, meta=META, check_headers={"Authorization": "secret"})
    fields = {"address": "", "port": 0, "consul_id": "/a/b", "extra_tags": TAGS, "extra_meta": META}
    service.check_kind = "keep"
    service.save()
    Instance.objects.create(service=service, tagged_addresses={"wan": "[::1]:80"}, warning_weight=0, **fields)
    address = f"/admin/inventory/service/{service.pk}/change/"
    context = operator.get(address).context
    form, formset = context["adminform"].form, context["inline_admin_formsets"][0].formset
    data = {name: form[name].value() for name in form.fields}
    for row in formset.forms:
        data |= {row.add_prefix(name): row[name].value() for name in row.fields}
    data |= {f"instances-{name}": formset.management_form[name].value() for name in formset.management_form.fields}
    data = {name: value for name, value in data.items() if value is not None and value is not False}
    assert operator.post(address, data | {"description": "changed"}).status_code == 302
    saved, instance = Service.objects.get(), Instance.objects.get()
    assert (saved.description, saved.tags, saved.meta) == ("changed", TAGS, META)
    assert saved.check_headers == {"Authorization": "secret"}
    assert {name: getattr(instance, name) for name in fields} == fields
    assert (instance.tagged_addresses, instance.warning_weight) == ({"wan": "[::1]:80"}, 0)
    assert {change.field for change in saved.history.first().diff_against(saved.history.all()[1]).changes} == {
        "description"
    }


@given(st.lists(st.text(max_size=20), max_size=4))
def test_tags_field_round_trip_keeps_every_valid_tag(texts):
    try:
        tags = list(validation.tags(texts))
    except InvalidValueError:
        tags = []
    field = TagsField()
    assert field.clean(field.prepare_value(tags)) == tags


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=20)))
def test_meta_field_round_trip_keeps_every_valid_value(texts):
    try:
        pairs = validation.meta(texts)
    except InvalidValueError:
        pairs = {}
    field = MetaField()
    assert field.clean(field.prepare_value(pairs)) == pairs


def test_tags_field_with_a_quotation_mark_that_nothing_closes_is_an_error():
    with pytest.raises(ValidationError, match="A tag in quotes ends with one"):
        TagsField().clean('a, "b')


def test_instance_form_new_port_changes_the_default_service_id(operator):
    operator.post(ADD, form_data({}))
    service, instance = Service.objects.get(), Instance.objects.get()
    row = {"id": str(instance.pk), "service": str(service.pk), "consul_id": instance.consul_id, "port": "81"}
    response = operator.post(f"/admin/inventory/service/{service.pk}/change/", form_data(row, initial=1))
    assert response.status_code == 302
    instance.refresh_from_db()
    assert (instance.port, instance.consul_id) == (81, "api-10.0.0.1-81")


def test_service_form_rename_keeps_instance_ids(operator):
    operator.post(ADD, form_data({}))
    service, instance = Service.objects.get(), Instance.objects.get()
    row = {"id": str(instance.pk), "service": str(service.pk), "consul_id": instance.consul_id}
    data = form_data(row, initial=1, name="renamed")
    assert operator.post(f"/admin/inventory/service/{service.pk}/change/", data).status_code == 302
    instance.refresh_from_db()
    assert (instance.service.name, instance.consul_id) == ("renamed", "api-10.0.0.1-80")


def test_service_form_saves_two_hundred_instances(operator):
    many = [{"port": str(8000 + number)} for number in range(200)]
    assert operator.post(ADD, form_data(*many)).status_code == 302
    assert Instance.objects.count() == 200


def saved_rows(service: Service) -> list[Instance]:
    return list(service.instances.order_by("pk"))


def change_form(service: Service, *rows: dict[str, object]) -> dict[str, object]:
    """Returns the POST data of the service's form: its saved instances with these changes, then new ones."""
    saved = saved_rows(service)
    values = [
        {"id": row.pk, "service": service.pk, "address": row.address, "port": row.port, "consul_id": row.consul_id}
        | change
        for row, change in zip(saved, rows, strict=False)
    ]  # fmt: skip
    return form_data(*values, *rows[len(saved) :], initial=len(saved), check_kind="none")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([{"port": 2}, {"port": 1}], [("a", 2), ("b", 1)], id="swapped ports"),
        pytest.param([{"consul_id": "b"}, {"consul_id": "a"}], [("b", 1), ("a", 2)], id="swapped IDs"),
        pytest.param([{"port": 2}, {"port": 3}], [("a", 2), ("b", 3)], id="shifted"),
        pytest.param([{"port": 2}, {"DELETE": "on"}], [("a", 2)], id="at the address of a deleted one"),
        pytest.param([{"DELETE": "on"}, {"port": 1}], [("b", 1)], id="at the address of one deleted before"),
        pytest.param([{"DELETE": "on"}, {}, {"port": 1, "consul_id": "a"}], [("b", 2), ("a", 1)], id="added again"),
        pytest.param([{"port": 3}, {}, {"port": 1, "consul_id": "c"}], [("a", 3), ("b", 2), ("c", 1)], id="added"),
    ],
)  # fmt: skip
def test_form_saves_instances_that_take_over_values_from_one_another(rows, expected, operator, declare):
    service = declare("api")
    for port, consul_id in enumerate(("a", "b"), start=1):
        Instance.objects.create(service=service, address="10.0.0.1", port=port, consul_id=consul_id)
    response = operator.post(f"/admin/inventory/service/{service.pk}/change/", change_form(service, *rows))
    assert response.status_code == 302, errors(response)
    assert [(row.consul_id, row.port) for row in saved_rows(service)] == expected
    assert {row.address for row in saved_rows(service)} == {"10.0.0.1"}


@pytest.mark.parametrize(
    ("rows", "field", "expected"),
    [
        ([{"port": 2}, {}], "port", "Another instance above, a, is at this address and port already."),
        ([{}, {"consul_id": "A"}], "consul_id", "Another instance above, at 10.0.0.1:1, has this service ID already."),
        ([{"consul_id": "Theirs"}, {}], "consul_id", "An instance of web at 10.0.0.9:9 has this service ID already."),
    ],
)
def test_form_collision_is_an_error_that_names_the_other(rows, field, expected, operator, declare):
    service = declare("api")
    for port, consul_id in enumerate(("a", "b"), start=1):
        Instance.objects.create(service=service, address="10.0.0.1", port=port, consul_id=consul_id)
    Instance.objects.create(service=declare("web"), address="10.0.0.9", port=9, consul_id="theirs")
    found = errors(operator.post(f"/admin/inventory/service/{service.pk}/change/", change_form(service, *rows)))
    assert {key: list(texts) for key, texts in found.items()} == {field: [expected]}
    assert [(row.consul_id, row.port) for row in saved_rows(service)] == [("a", 1), ("b", 2)]


def test_form_names_an_instance_that_was_added_meanwhile(operator, declare):
    service = declare("api")
    data = form_data({"port": 1}, check_kind="none")
    Instance.objects.create(service=service, address="10.0.0.1", port=1, consul_id="added")
    found = errors(operator.post(f"/admin/inventory/service/{service.pk}/change/", data))
    assert found["port"] == ["added is at this address and port already."]


def test_form_that_collides_while_it_is_saved_is_no_error_page(operator, declare, monkeypatch):
    service = declare("api")
    Instance.objects.create(service=declare("web"), address="10.0.0.9", port=9, consul_id="theirs")
    monkeypatch.setattr(InstanceFormSet, "_kept_beside", lambda _self: ({}, {}))  # as if it was added a moment later
    data = form_data({"port": 1, "consul_id": "theirs"}, check_kind="none")
    response = operator.post(f"/admin/inventory/service/{service.pk}/change/", data, follow=True)
    assert "somebody has changed the inventory meanwhile" in response.content.decode()
    assert not service.instances.exists()
