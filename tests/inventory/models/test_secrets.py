"""Secret values stay what they are, and nobody is shown them: not in forms, documents, pages, output or the audit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command

from registry_admin.consul.validation import HIDDEN
from registry_admin.inventory.admin.fields import HeadersField
from registry_admin.inventory.exchange import DocumentError, export_document, prepare_import
from registry_admin.inventory.models import Service
from registry_admin.inventory.models.secrets import CHANGED, hidden_change

pytestmark = pytest.mark.django_db

# pragma: allowlist nextline secret - only for tests
SECRET = "s3cret-value"
CHANGE_PAGE = "/admin/inventory/service/{}/change/"


@pytest.fixture
def service() -> Service:
    return Service.objects.create(name="api", check_headers={"Authorization": SECRET, "X-Trace": "on"})


def test_hidden_change_tells_which_values_differ():
    before, after = {"A": "1", "B": "2"}, {"A": "1", "B": "3", "C": "4"}
    assert hidden_change(before, after) == {"A": HIDDEN, "B": CHANGED, "C": HIDDEN}


def test_hidden_value_saved_again_stays(service):
    row = Service.objects.get()
    row.check_headers = {"Authorization": HIDDEN, "X-Trace": "off"}
    row.save()
    assert Service.objects.get().check_headers == {"Authorization": SECRET, "X-Trace": "off"}


def test_hidden_value_that_is_not_saved_is_refused(service):
    service.check_headers = {"X-New": HIDDEN}
    with pytest.raises(ValidationError, match="X-New: this stands for a value that isn't known"):
        service.full_clean()


def test_headers_field_hides_values_and_takes_new_ones():
    field = HeadersField()
    text = field.prepare_value({"Authorization": SECRET, "X-Trace": "on"})
    assert text == f"Authorization: {HIDDEN}\nX-Trace: {HIDDEN}"
    assert not field.has_changed({"Authorization": SECRET, "X-Trace": "on"}, text)
    assert field.has_changed({"Authorization": SECRET, "X-Trace": "on"}, text.replace(HIDDEN, "new"))
    assert field.clean("Authorization: Basic a:b") == {"Authorization": "Basic a:b"}


def test_export_hides_secrets_and_is_imported_again_without_a_change(service):
    text = export_document(Service.objects.all())
    assert "Authorization" in text
    assert SECRET not in text
    prepared = prepare_import(text)
    assert (prepared.changes, prepared.unchanged) == ([], 1)


def test_export_with_secrets_is_imported_elsewhere(service):
    text = export_document(Service.objects.all(), with_secrets=True)
    hidden = export_document(Service.objects.all())
    Service.objects.all().delete()
    with pytest.raises(DocumentError, match="this stands for a value that isn't known"):
        prepare_import(hidden)
    prepare_import(text).apply()
    assert Service.objects.get().check_headers["Authorization"] == SECRET


def test_import_command_names_headers_and_hides_values(service, capsys, tmp_path):
    document = tmp_path / "registry.json"
    text = export_document(Service.objects.all(), fmt="json", with_secrets=True)
    document.write_text(text.replace(SECRET, f"new-{SECRET}"))
    for options in ((), ("--json",)):
        call_command("import_registry", str(document), "--dry-run", *options)
        output = "".join(capsys.readouterr())
        assert f'"Authorization": "{CHANGED}"' in output
        assert SECRET not in output
    Service.objects.all().delete()
    call_command("import_registry", str(document), "--dry-run", "--json")
    output = "".join(capsys.readouterr())
    assert '"check.headers"' in output
    assert SECRET not in output


def test_export_command_shows_secrets_only_if_asked(service, capsys):
    call_command("export_registry")
    assert SECRET not in capsys.readouterr().out
    call_command("export_registry", "--with-secrets")
    assert SECRET in capsys.readouterr().out


def test_pages_of_the_admin_and_the_audit_hide_secrets(service, operator, make_user: Callable, client_of: Callable):
    service.check_headers = {"Authorization": f"new-{SECRET}", "X-Trace": "on"}
    service.save()
    viewer = client_of(make_user("view_service", "view_instance"))
    document = export_document(Service.objects.all(), with_secrets=True).replace(SECRET, f"third-{SECRET}")
    pages = [
        operator.get(CHANGE_PAGE.format(service.pk)),
        viewer.get(CHANGE_PAGE.format(service.pk)),
        operator.get("/admin/inventory/service/export/"),
        operator.get("/history/changes/"),
        operator.post("/admin/inventory/service/import/", {"text": document}),
    ]
    for page in pages:
        text = page.content.decode()
        assert page.status_code == 200
        assert "Authorization" in text
        assert SECRET not in text
