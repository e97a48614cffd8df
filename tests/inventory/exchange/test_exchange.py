"""Import and export of documents: lossless, strict, all or nothing."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
import yaml
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from registry_admin.consul import CheckKind
from registry_admin.errors import RegistryError
from registry_admin.inventory.exchange import DocumentError, export_document, prepare_import
from registry_admin.inventory.models import Instance, Service, SyncRun, UploadedDocument

pytestmark = pytest.mark.django_db(transaction=True)

IMPORT = "/admin/inventory/service/import/"
DOCUMENT = """
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


def test_import_fills_missing_keys_with_defaults(consul):
    result = prepare_import(DOCUMENT)
    assert result.summary == "3 to create, 0 to change, 0 to delete, 0 unchanged"
    assert not Service.objects.exists()
    result.apply()
    assert declared() == {"backend-api": [8001, 8002]}
    instance = Instance.objects.get(port=8002)
    assert (instance.consul_id, instance.weight) == ("backend-api-127.0.0.1-8002", 3)
    assert Service.objects.get().check_timeout == "5s"
    assert len(consul.agent_instances()) == 2
    assert SyncRun.objects.count() == 1


def test_import_of_an_export_has_no_changes():
    prepare_import(DOCUMENT).apply()
    for fmt in ("yaml", "json"):
        result = prepare_import(export_document(Service.objects.all(), fmt=fmt))
        assert (result.changes, result.unchanged) == ([], 3)


def test_import_changes_differing_fields_and_is_audited(operator):
    prepare_import(DOCUMENT).apply()
    changed = DOCUMENT.replace("team-blue", "team-red").replace("weight: 3", "weight: 5")
    result = prepare_import(changed)
    assert [(c.action, c.kind, c.fields) for c in result.changes] == [
        ("change", "service", (("owner", "team-blue", "team-red"),)), ("change", "instance", (("weight", 3, 5),)),
    ]  # fmt: skip
    page = operator.post(IMPORT, {"text": changed})
    assert "team-red" in page.content.decode()
    assert Service.objects.get().owner == "team-blue"
    operator.post(IMPORT, {"text": changed, "digest": result.digest})
    assert Service.objects.get().owner == "team-red"
    latest = Service.history.model.objects.latest("history_id")
    assert (latest.history_user_id, latest.history_change_reason, latest.owner) == ("operator", "admin", "team-red")


def test_import_deletes_unlisted_rows_only_on_request():
    prepare_import(DOCUMENT).apply()
    Service.objects.create(name="web")
    smaller = DOCUMENT.replace("      - address: 127.0.0.1\n        port: 8002\n        weight: 3\n", "")
    assert prepare_import(smaller).changes == []
    result = prepare_import(smaller, delete_unlisted=True)
    assert {(c.action, c.kind, c.name) for c in result.changes} == {
        ("delete", "service", "web"), ("delete", "instance", "backend-api-127.0.0.1-8002"),
    }  # fmt: skip
    result.apply()
    assert declared() == {"backend-api": [8001]}


def test_import_moves_an_id_from_a_deleted_service():
    Instance.objects.create(service=Service.objects.create(name="old"), address="127.0.0.1", port=1, consul_id="x-1")
    text = document(instances=[{"address": "127.0.0.1", "port": 1, "id": "x-1"}])
    assert "old has an instance of this ID" in problems(text)[0]
    prepare_import(text, delete_unlisted=True).apply()
    assert Instance.objects.get().service.name == "api"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping"),
        ("just words", "must be a mapping"),
        ("[1, 2]", "must be a mapping"),
        ("{", "it is no JSON"),
        ("a: [", "it is no YAML"),
        ("services: []", "must say 'format: 1'"),
        ("format: 1", "has no 'services'; is it cut off?"),
        ('{"format": 1}', "has no 'services'; is it cut off?"),
        ("format: 1\nservices:", "must be a list"),
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
        (document(tags=["a\u200bb"]), "tags:"),
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
def test_ambiguous_or_invalid_document_is_refused(text, expected):
    assert expected in " | ".join(problems(text))
    assert not Service.objects.exists()


def test_document_error_is_a_registry_error():
    with pytest.raises(RegistryError, match="must be a mapping"):
        prepare_import("just words")


def test_document_error_lists_every_problem_with_entry_and_line():
    text = DOCUMENT.replace("10s", "soon").replace("8002", "-1")
    lines = problems(text)
    assert len(lines) == 2
    assert lines[0].startswith("services[1] 'backend-api' (line 4): check.interval:")
    assert lines[1].startswith("services[1] 'backend-api', instances[2] (line 11): port:")


def test_import_page_compares_again_after_a_concurrent_change(operator):
    digest = prepare_import(DOCUMENT).digest
    Service.objects.create(name="backend-api", owner="somebody")
    page = operator.post(IMPORT, {"text": DOCUMENT, "digest": digest}).content.decode()
    assert "the inventory has changed since" in page
    assert Service.objects.get().owner == "somebody"


def test_import_page_takes_files_lists_problems_and_warns(operator):
    upload = SimpleUploadedFile("r.yaml", DOCUMENT.replace("8001", "6379").encode())
    page = operator.post(IMPORT, {"file": upload}).content.decode()
    assert "3 to create" in page
    assert "6379 is Redis" in page
    bad = operator.post(IMPORT, {"text": DOCUMENT.replace("8001", "<script>")})
    assert bad.status_code == 400
    assert "port: must be a whole number" in bad.content.decode()
    assert "Choose a file, or paste a document." in operator.post(IMPORT, {}).content.decode()


def test_import_page_takes_an_empty_document_only_where_that_is_said(operator):
    Service.objects.create(name="api")
    empty = {"text": "format: 1\nservices: []\n", "delete_others": "on"}
    refused = operator.post(IMPORT, empty)
    assert (refused.status_code, "it lists no service" in refused.content.decode()) == (400, True)
    page = operator.post(IMPORT, empty | {"allow_empty": "on"}).content.decode()
    assert "1 to delete" in page
    hidden = dict(
        re.findall(r'<input type="hidden" name="(kept|delete_others|allow_empty|digest)" value="([^"]*)"', page)
    )
    operator.post(IMPORT, hidden)
    assert not Service.objects.exists()


def large_document(services: int) -> str:
    """Returns a document with 25 KB of meta in each of its services."""
    meta = {f"k{number}": "v" * 500 for number in range(50)}
    return json.dumps({"format": 1, "services": [{"name": f"s{number}", "meta": meta} for number in range(services)]})


def test_import_page_imports_what_no_form_could_send_back(operator):
    text = large_document(140)
    assert len(text) > 3_000_000
    page = operator.post(IMPORT, {"file": SimpleUploadedFile("r.json", text.encode())}).content.decode()
    assert "140 to create" in page
    assert len(page) < 500_000
    kept = re.search(r'name="kept" value="([^"]*)"', page)[1]
    confirmed = {"kept": kept, "digest": prepare_import(text).digest}
    assert operator.post(IMPORT, confirmed).status_code == 302
    assert Service.objects.count() == 140
    assert not UploadedDocument.objects.exists()
    assert "isn&#x27;t kept any more" in operator.post(IMPORT, confirmed).content.decode()


def test_previewed_document_is_kept_for_its_user_and_for_an_hour(operator, client_of, make_user):
    page = operator.post(IMPORT, {"text": DOCUMENT}).content.decode()
    confirmed = {"kept": re.search(r'name="kept" value="([^"]*)"', page)[1], "digest": prepare_import(DOCUMENT).digest}
    other = client_of(make_user(name="other", superuser=True))
    assert "isn&#x27;t kept any more" in other.post(IMPORT, confirmed).content.decode()
    UploadedDocument.objects.update(uploaded_at=timezone.now() - timedelta(minutes=61))
    assert "isn&#x27;t kept any more" in operator.post(IMPORT, confirmed).content.decode()
    assert "isn&#x27;t kept any more" in operator.post(IMPORT, confirmed | {"kept": "x"}).content.decode()
    for _ in range(7):
        operator.post(IMPORT, {"text": DOCUMENT})
    assert UploadedDocument.objects.count() == 5
    assert not Service.objects.exists()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"text": "x" * 3_000_000}, "The pasted text is larger than 2.5"),
        ({"file": SimpleUploadedFile("r.yaml", b"x" * 10_200_000)}, "it is larger than 10 MB: divide it"),
    ],
)
def test_import_page_says_the_limit_to_what_is_too_large(data, expected, operator):
    response = operator.post(IMPORT, data)
    assert response.status_code == 413
    assert expected in response.content.decode().replace("\xa0", " ")


def test_import_page_needs_a_csrf_token(operator):
    operator.handler.enforce_csrf_checks = True
    assert operator.get(IMPORT).status_code == 200
    assert operator.post(IMPORT, {"text": DOCUMENT}).status_code == 403


def test_import_command_reads_no_more_than_a_document_may_have(tmp_path):
    large = tmp_path / "large.yaml"
    large.write_bytes(b"x" * 10_000_001)
    with pytest.raises(CommandError, match="it is larger than 10 MB: divide it"):
        call_command("import_registry", str(large))
    with pytest.raises(CommandError, match="it is larger than 10 MB: divide it"):
        call_command("import_registry", "/dev/zero")


def test_import_needs_the_permissions_to_change_and_delete(client_of, make_user):
    Service.objects.create(name="web")
    viewer = client_of(make_user("view_service", "view_instance", name="viewer"))
    assert viewer.get(IMPORT).status_code == viewer.post(IMPORT, {"text": DOCUMENT}).status_code == 403
    assert viewer.get("/admin/inventory/service/export/").status_code == 200
    edits = ("view_service", "add_service", "change_service", "add_instance", "change_instance")
    editor = client_of(make_user(*edits, name="editor"))
    assert editor.post(IMPORT, {"text": DOCUMENT}).status_code == 200
    assert editor.post(IMPORT, {"text": DOCUMENT, "delete_others": "on"}).status_code == 403
    assert declared() == {"web": []}


def test_export_page_is_a_download(operator):
    prepare_import(DOCUMENT).apply()
    response = operator.get("/admin/inventory/service/export/?format=json")
    assert response.headers["Content-Disposition"] == 'attachment; filename="registry.json"'
    assert json.loads(response.content)["services"][0]["name"] == "backend-api"
    assert yaml.safe_load(operator.get("/admin/inventory/service/export/").content)["format"] == 1


def test_import_and_export_commands(consul, tmp_path, capsys):
    source, target = tmp_path / "in.yaml", tmp_path / "out.yaml"
    source.write_text(DOCUMENT)
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
    source.write_text(DOCUMENT.replace("8001", "0"))
    with pytest.raises(CommandError, match=r"Nothing was imported:\n .*port"):
        call_command("import_registry", str(source))
    with pytest.raises(CommandError, match="Not declared: nothing"):
        call_command("export_registry", service=["nothing"])
    with pytest.raises(CommandError, match="can't be read"):
        call_command("import_registry", str(tmp_path / "missing"))


def test_import_query_count_does_not_grow_with_instances(count_queries):
    def text(count: int) -> str:
        ports = [{"address": "10.0.0.1", "port": 1000 + n} for n in range(count)]
        return document(instances=ports)

    few = len(count_queries(lambda: prepare_import(text(5)).apply()))
    Service.objects.all().delete()
    many = len(count_queries(lambda: prepare_import(text(300)).apply()))
    assert many <= few + 20  # SQLite takes some forty rows at once


words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12).map(lambda text: f"s{text}z")
visible = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
pairs = st.dictionaries(
    words, visible | st.sampled_from([" x ", "yes", "1.0", "~", "a: b", "- a", "#", "{a}", "'\"'"]), max_size=3
)
tags = st.lists(words | st.sampled_from(["a b", "urlprefix-/foo strip=/foo", "null", "0x1F", "1:30"]), max_size=3)
durations = st.sampled_from(["1s", "10s", "1m30s", "1.5s"])
documents = st.lists(
    st.fixed_dictionaries({
        "name": words,
        "description": texts,
        "owner": texts,
        "documentation_url": st.sampled_from(["", "https://docs.example/a?b=c#d"]),
        "tags": tags,
        "meta": pairs,
        "enabled": st.booleans(),
        "check": st.fixed_dictionaries({}, optional={
            "kind": st.sampled_from(list(CheckKind)),
            "path": st.sampled_from(["/", "/health?deep=1", "/%20"]),
            "scheme": st.sampled_from(["http", "https"]),
            "interval": durations,
            "timeout": durations,
            "deregister_after": durations | st.just(""),
        }),
        "instances": st.lists(
            st.fixed_dictionaries({
                "address": st.sampled_from(["127.0.0.1", "::1", "0::1", "db.example.com", "DB.example.com."]),
                "port": st.integers(1, 65535),
            }, optional={
                "id": words,
                "weight": st.integers(1, 9),
                "tags": tags,
                "meta": pairs,
                "enabled": st.booleans(),
            }),
            max_size=3,
            unique_by=lambda item: item["port"],
        ),
    }),
    max_size=3,
    unique_by=lambda item: item["name"].lower(),
)  # fmt: skip


class TestRoundTrip(TestCase):
    """Property tests of export and import."""

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(documents)
    def test_export_and_import_round_trip_is_lossless(self, services):
        document = json.dumps({"format": 1, "services": services})
        try:
            prepare_import(document).apply()
        except DocumentError as refusal:
            for problem in refusal.problems:
                assert "the same service ID" in problem.text
            return
        assert prepare_import(document).changes == []
        for fmt in ("yaml", "json"):
            text = export_document(Service.objects.all(), fmt=fmt)
            assert prepare_import(text).changes == []
        text = export_document(Service.objects.all())
        Service.objects.all().delete()
        prepare_import(text).apply()
        assert export_document(Service.objects.all()) == text
