"""Import and export in the admin: a document goes in by way of a look at what it would change."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from registry_admin.inventory import services
from registry_admin.inventory.doctor import Advice, examine
from registry_admin.inventory.exchange import DocumentError, Import, export_document, prepare_import
from registry_admin.inventory.exchange.exporting import FORMATS
from registry_admin.inventory.exchange.reading import MAX_BYTES
from registry_admin.inventory.models import Service
from registry_admin.inventory.telling import tell_outcomes

SHOWN = 500  # changes on the page
_CONTENT_TYPES = {"yaml": "application/yaml", "json": "application/json"}


class ImportForm(forms.Form):
    """A file, or what was pasted."""

    file = forms.FileField(required=False, help_text="YAML or JSON, as Export writes it.")
    text = forms.CharField(
        required=False, strip=False, label="or paste it", widget=forms.Textarea(attrs={"rows": 12, "cols": 90})
    )
    delete_others = forms.BooleanField(
        required=False, label="Also delete what the document doesn't name", help_text="Takes the permission to delete."
    )

    def clean(self) -> dict[str, Any]:
        """The document's text is in `document`."""
        cleaned: dict[str, Any] = super().clean() or {}
        upload = cleaned.get("file")
        if upload is not None and upload.size > MAX_BYTES:
            raise forms.ValidationError(f"The file is larger than {MAX_BYTES // 1_000_000} MB.")
        try:
            text = upload.read().decode("utf-8-sig") if upload is not None else cleaned.get("text", "")
        except UnicodeDecodeError:
            raise forms.ValidationError("The file is not in UTF-8.") from None
        if not text.strip():
            raise forms.ValidationError("Choose a file, or paste a document.")
        cleaned["document"] = text
        return cleaned


def export_view(request: HttpRequest, rows: Any = None) -> HttpResponse:
    """All declarations, or these, as a download."""
    if not request.user.has_perms(["inventory.view_service", "inventory.view_instance"]):
        raise PermissionDenied
    fmt = request.GET.get("format", "yaml")
    fmt = fmt if fmt in FORMATS else "yaml"
    text = export_document(Service.objects.all() if rows is None else rows, fmt=fmt)
    response = HttpResponse(text, content_type=f"{_CONTENT_TYPES[fmt]}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="registry.{fmt}"'
    response["Cache-Control"] = "private, no-store"
    return response


def import_view(request: HttpRequest) -> HttpResponse:
    """The form, then what would change, then the change: what was shown is what is written."""
    if not request.user.has_perms([f"inventory.{verb}_{what}" for verb in ("add", "change") for what in _WHAT]):
        raise PermissionDenied
    if request.method != "POST":
        return _page(request, ImportForm())
    form = ImportForm(request.POST, request.FILES)
    if not form.is_valid():
        return _page(request, form)
    deleting = form.cleaned_data["delete_others"]
    if deleting and not request.user.has_perms([f"inventory.delete_{what}" for what in _WHAT]):
        raise PermissionDenied
    text = form.cleaned_data["document"]
    try:
        found = prepare_import(text, delete_others=deleting)
        digest = request.POST.get("digest")
        if not digest:
            return _page(request, form, found, text)
        if digest != found.digest:
            messages.warning(
                request, "Nothing was imported: the inventory has changed since. This is what it would do now."
            )
            return _page(request, form, found, text)
        with services.collected_outcomes() as outcomes:
            found.apply()
    except DocumentError as error:
        return _page(request, form, problems=error.problems)
    messages.success(request, f"Imported: {found.summary}.")
    tell_outcomes(request, outcomes)
    return redirect("admin:inventory_service_changelist")


_WHAT = ("service", "instance")


def _page(
    request: HttpRequest, form: ImportForm, found: Import | None = None, text: str = "", problems: Any = ()
) -> HttpResponse:
    advice: list[tuple[str, Advice]] = []
    if found is not None:
        changed = {change.service for change in found.changes}
        for service, instances in found.declared[:SHOWN]:
            if service.name in changed:
                advice += [(service.name, one) for one in examine(service, instances)]
    context = {
        **admin.site.each_context(request),
        "title": "Import services",
        "opts": Service._meta,  # noqa: SLF001 - Django's documented API
        "form": form,
        "found": found,
        "shown": found.changes[:SHOWN] if found else [],
        "advice": advice[:50],
        "document": text,
        "problems": problems,
    }
    return TemplateResponse(request, "admin/inventory/import.html", context, status=400 if problems else 200)
