"""Declarations as documents: out without loss, and in strictly, all of it or nothing."""

from __future__ import annotations

import json

import pytest
import yaml
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from registry_admin.inventory.exchange import DocumentError, export_document, prepare_import
from registry_admin.inventory.models import Instance, Service, SyncRun

pytestmark = pytest.mark.django_db(transaction=True)

IMPORT = "/admin/inventory/service/import/"
ONE = """
format: 1
services:
  - name: backend-api
    owner: team-blue
    tags: [api]
    check: {path: /health, interval: 10s}
    instances:
      - address: 127.0.0.1
        port: 8001
      - address: 127.0.0.1
        port: 8002
        weight: 3
"""


def declared() -> dict[str, list[int]]:
    return {
        service.name: list(service.instances.order_by("port").values_list("port", flat=True))
        for service in Service.objects.all()
    }


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        prepare_import(text)
    return [str(problem) for problem in caught.value.problems]


def document(**service) -> str:
    return json.dumps({"format": 1, "services": [{"name": "api"} | service]})


def test_a_document_becomes_declarations_with_defaults_for_the_rest(consul):
    found = prepare_import(ONE)
    assert found.summary == "3 to create, 0 to change, 0 to delete, 0 unchanged"
    assert not Service.objects.exists()
    found.apply()
    assert declared() == {"backend-api": [8001, 8002]}
    instance = Instance.objects.get(port=8002)
    assert (instance.consul_id, instance.weight) == ("backend-api-127.0.0.1-8002", 3)
    assert Service.objects.get().check_timeout == "5s"
    assert len(consul.agent_instances()) == 2
    assert SyncRun.objects.count() == 1


def test_what_is_exported_changes_nothing_when_it_is_imported():
    prepare_import(ONE).apply()
    for fmt in ("yaml", "json"):
        found = prepare_import(export_document(Service.objects.all(), fmt=fmt))
        assert (found.changes, found.unchanged) == ([], 3)


def test_only_what_differs_is_changed_and_the_audit_says_by_whom(operator):
    prepare_import(ONE).apply()
    changed = ONE.replace("team-blue", "team-red").replace("weight: 3", "weight: 5")
    found = prepare_import(changed)
    assert [(c.action, c.kind, c.fields) for c in found.changes] == [
        ("change", "service", (("owner", "team-blue", "team-red"),)), ("change", "instance", (("weight", 3, 5),)),
    ]  # fmt: skip
    page = operator.post(IMPORT, {"text": changed})
    assert "team-red" in page.content.decode()
    assert Service.objects.get().owner == "team-blue"
    operator.post(IMPORT, {"text": changed, "digest": found.digest})
    assert Service.objects.get().owner == "team-red"
    latest = Service.history.model.objects.latest("history_id")
    assert (latest.history_user_id, latest.history_change_reason, latest.owner) == ("operator", "admin", "team-red")


def test_what_the_document_does_not_name_stays_unless_it_is_to_go():
    prepare_import(ONE).apply()
    Service.objects.create(name="web")
    smaller = ONE.replace("      - address: 127.0.0.1\n        port: 8002\n        weight: 3\n", "")
    assert prepare_import(smaller).changes == []
    found = prepare_import(smaller, delete_others=True)
    assert {(c.action, c.kind, c.name) for c in found.changes} == {
        ("delete", "service", "web"), ("delete", "instance", "backend-api-127.0.0.1-8002"),
    }  # fmt: skip
    found.apply()
    assert declared() == {"backend-api": [8001]}


def test_an_id_may_move_to_another_service_that_the_same_document_deletes_it_from():
    Instance.objects.create(service=Service.objects.create(name="old"), address="127.0.0.1", port=1, consul_id="x-1")
    text = document(instances=[{"address": "127.0.0.1", "port": 1, "id": "x-1"}])
    assert "old has an instance of this ID" in problems(text)[0]
    prepare_import(text, delete_others=True).apply()
    assert Instance.objects.get().service.name == "api"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("[1, 2]", "must be a mapping"),
        ("{", "it is no JSON"),
        ("a: [", "it is no YAML"),
        ("services: []", "must say 'format: 1'"),
        ("format: 2\nservices: []", "must say 'format: 1'"),
        ("format: 1\nservices: {}", "must be a list"),
        ("format: 1\nservices:\n  - nmae: api", "unknown key 'nmae'; did you mean 'name'?"),
        ("format: 1\nservices:\n  - owner: x", "name: is missing"),
        ("format: 1\nservices:\n  - name: a\n    name: b", "line 4: the key 'name' is there twice"),
        ("format: 1\nservices: &a\n  - name: a", "anchors and aliases"),
        ("format: 1\nservices: [*a]", "anchors and aliases"),
        ("format: 1\nservices: !!python/object/apply:os.system [x]", "tags"),
        ("format: 1\nservices: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ('{"format": 1, "format": 1}', "'format' is there twice"),
        ('{"format": 1, "services": [NaN]}', "NaN is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        (document(name="../../leave"), "name:"),
        (document(name=7), "name: must be text"),
        (document(name="consul"), "name:"),
        (document(enabled="yes"), "enabled: must be true or false"),
        (document(tags="api"), "tags: must be a list of texts"),
        (document(tags=["a,b"]), "tags:"),
        (document(meta={"version": 1.4}), "meta: must be pairs of texts; put numbers in quotes"),
        (document(meta={f"k{n}": "v" for n in range(65)}), "meta:"),
        (document(check={"kind": "script"}), "check.kind: give one of"),
        (document(check={"args": ["rm"]}), "unknown key 'args'"),
        (document(check={"interval": "10"}), "check.interval:"),
        (document(check={"interval": "0s"}), "check.interval:"),
        (document(check={"path": "health"}), "check.path:"),
        (document(documentation_url="javascript:alert(1)"), "documentation_url:"),
        (document(instances=[{"address": "127.0.0.1"}]), "port: is missing"),
        (document(instances=[{"address": "127.0.0.1", "port": "80"}]), "port: must be a whole number"),
        (document(instances=[{"address": "127.0.0.1", "port": True}]), "port: must be a whole number"),
        (document(instances=[{"address": "127.0.0.1", "port": 65536}]), "port:"),
        (document(instances=[{"address": "evil@host", "port": 80}]), "address:"),
        (document(instances=[{"address": "127.0.0.1", "port": 80, "id": "a/../b"}]), "id:"),
        (document(instances=[{"address": "127.0.0.1", "port": 80}] * 2), "the same address and port"),
        (
            document(instances=[{"address": "a.b", "port": n, "id": i} for n, i in ((1, "x"), (2, "X"))]),
            "the same service ID",
        ),
        (json.dumps({"format": 1, "services": [{"name": "api"}, {"name": "API"}]}), "the same service as services[1]"),
    ],
)
def test_what_can_be_meant_in_two_ways_or_not_at_all_is_refused(text, said):
    assert said in " | ".join(problems(text))
    assert not Service.objects.exists()


def test_every_problem_is_told_at_once_with_its_row_and_line():
    text = ONE.replace("10s", "soon").replace("8002", "0")
    told = problems(text)
    assert len(told) == 2
    assert told[0].startswith("services[1] 'backend-api' (line 4): check.interval:")
    assert told[1].startswith("services[1] 'backend-api', instances[2] (line 11): port:")


def test_a_service_that_is_changed_meanwhile_is_looked_at_again(operator):
    digest = prepare_import(ONE).digest
    Service.objects.create(name="backend-api", owner="somebody")
    page = operator.post(IMPORT, {"text": ONE, "digest": digest}).content.decode()
    assert "the inventory has changed since" in page
    assert Service.objects.get().owner == "somebody"


def test_the_page_takes_a_file_names_problems_and_warns(operator):
    upload = SimpleUploadedFile("r.yaml", ONE.replace("8001", "6379").encode())
    page = operator.post(IMPORT, {"file": upload}).content.decode()
    assert "3 to create" in page
    assert "6379 is Redis" in page
    bad = operator.post(IMPORT, {"text": ONE.replace("8001", "<script>")})
    assert bad.status_code == 400
    assert "port: must be a whole number" in bad.content.decode()
    assert "Choose a file, or paste a document." in operator.post(IMPORT, {}).content.decode()


def test_who_may_not_change_may_not_import_and_who_may_not_delete_may_not_delete(client_of, make_user):
    Service.objects.create(name="web")
    viewer = client_of(make_user("view_service", "view_instance", name="viewer"))
    assert viewer.get(IMPORT).status_code == viewer.post(IMPORT, {"text": ONE}).status_code == 403
    assert viewer.get("/admin/inventory/service/export/").status_code == 200
    edits = ("view_service", "add_service", "change_service", "add_instance", "change_instance")
    editor = client_of(make_user(*edits, name="editor"))
    assert editor.post(IMPORT, {"text": ONE}).status_code == 200
    assert editor.post(IMPORT, {"text": ONE, "delete_others": "on"}).status_code == 403
    assert declared() == {"web": []}


def test_export_in_the_admin_is_a_download(operator):
    prepare_import(ONE).apply()
    response = operator.get("/admin/inventory/service/export/?format=json")
    assert response.headers["Content-Disposition"] == 'attachment; filename="registry.json"'
    assert json.loads(response.content)["services"][0]["name"] == "backend-api"
    assert yaml.safe_load(operator.get("/admin/inventory/service/export/").content)["format"] == 1


def test_the_commands(tmp_path, capsys):
    source, target = tmp_path / "in.yaml", tmp_path / "out.yaml"
    source.write_text(ONE)
    call_command("import_registry", str(source), dry_run=True)
    assert "+ service backend-api" in capsys.readouterr().out
    assert not Service.objects.exists()
    with pytest.raises(SystemExit) as ended:
        call_command("import_registry", str(source), detailed_exitcode=True)
    assert ended.value.code == 2
    call_command("export_registry", output=str(target))
    capsys.readouterr()
    call_command("import_registry", str(target), detailed_exitcode=True)
    assert capsys.readouterr().out == "Import: 0 to create, 0 to change, 0 to delete, 3 unchanged\n"
    source.write_text(ONE.replace("8001", "0"))
    with pytest.raises(CommandError, match=r"Nothing was imported:\n .*port"):
        call_command("import_registry", str(source))
    with pytest.raises(CommandError, match="Not declared: nothing"):
        call_command("export_registry", service=["nothing"])
    with pytest.raises(CommandError, match="can't be read"):
        call_command("import_registry", str(tmp_path / "missing"))


def test_many_cost_no_query_each(count_queries):
    def text(count: int) -> str:
        ports = [{"address": "10.0.0.1", "port": 1000 + n} for n in range(count)]
        return document(instances=ports)

    few = len(count_queries(lambda: prepare_import(text(5)).apply()))
    Service.objects.all().delete()
    many = len(count_queries(lambda: prepare_import(text(300)).apply()))
    assert many <= few + 20  # SQLite takes some forty rows at once


words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map(lambda text: f"s{text}")
texts = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
documents = st.lists(
    st.fixed_dictionaries({
        "name": words,
        "description": texts,
        "owner": texts,
        "tags": st.lists(words, max_size=3, unique=True),
        "meta": st.dictionaries(words, texts, max_size=3),
        "enabled": st.booleans(),
        "instances": st.lists(
            st.fixed_dictionaries({
                "address": st.sampled_from(["127.0.0.1", "::1", "db.example.com"]),
                "port": st.integers(1, 65535),
                "weight": st.integers(1, 9),
                "enabled": st.booleans(),
            }),
            max_size=3,
            unique_by=lambda one: one["port"],
        ),
    }),
    max_size=3,
    unique_by=lambda one: one["name"].lower(),
)  # fmt: skip


class TestRoundTrip(TestCase):
    """Whatever can be declared comes back as it was."""

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(documents)
    def test_out_and_in_again_is_the_same(self, services):
        try:
            prepare_import(json.dumps({"format": 1, "services": services})).apply()
        except DocumentError:
            return  # such as an ID that two services would get: refused as a whole
        for fmt in ("yaml", "json"):
            text = export_document(Service.objects.all(), fmt=fmt)
            assert prepare_import(text).changes == []
        text = export_document(Service.objects.all())
        Service.objects.all().delete()
        prepare_import(text).apply()
        assert export_document(Service.objects.all()) == text
