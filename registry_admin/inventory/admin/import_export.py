"""Import and export in the admin: an import shows its changes before it writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from registry_admin.inventory.admin.confirmation import NO_REMOVALS
from registry_admin.inventory.admin.uploads import keep_document, kept_document, takes_large_bodies, upload_problem
from registry_admin.inventory.exchange import DocumentError, Import, export_document, prepare_import
from registry_admin.inventory.exchange.consul_preview import preview_in_consul
from registry_admin.inventory.exchange.formats import CONSUL_LABELS, DEFAULT_FORMAT, LABELS, OWN_FORMATS
from registry_admin.inventory.exchange.limits import MAX_BYTES
from registry_admin.inventory.exchange.removals import approve_import_removals, preview_import_removals
from registry_admin.inventory.lint import LintWarning, lint_declaration
from registry_admin.inventory.models import Service, UploadedDocument
from registry_admin.inventory.removal_confirmation import FIELD, missing_right, removal_refusal
from registry_admin.inventory.sync import on_commit
from registry_admin.inventory.sync.removals import RemovalPreview
from registry_admin.inventory.sync_messages import add_sync_messages

MAX_CHANGES_ON_PAGE = 500
MAX_ADVICE_ON_PAGE = 50
MODELS = ("service", "instance")


class ImportForm(forms.Form):
    """A document: a file, pasted text, or `kept` since its preview."""

    file = forms.FileField(
        required=False,
        help_text=f"{LABELS}, as Export writes it, or {CONSUL_LABELS}; at most {MAX_BYTES // 1_000_000} MB.",
    )
    text = forms.CharField(
        required=False, strip=False, label="or paste it", widget=forms.Textarea(attrs={"rows": 12, "cols": 90})
    )
    delete_others = forms.BooleanField(
        required=False, label="Also delete what the document doesn't name", help_text="Takes the permission to delete."
    )

    allow_empty = forms.BooleanField(
        required=False,
        label="Even if it names nothing at all",
        help_text="Together with the above: deletes all declarations.",
    )

    def __init__(self, *args: Any, user: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        key = self.data.get("kept", "")
        self.kept = kept_document(user, key) if key else None

    def clean(self) -> dict[str, Any]:
        """Puts the text into `document`. Raises ValidationError for a missing, large or undecodable document."""
        cleaned: dict[str, Any] = super().clean() or {}
        if self.kept is not None:
            return cleaned | {"document": self.kept.text}
        if self.data.get("kept"):
            raise forms.ValidationError("Nothing was imported: the document isn't kept any more. Choose it again.")
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
    """Returns all declarations, or those in `rows`, as a download."""
    if not request.user.has_perms(["inventory.view_service", "inventory.view_instance"]):
        raise PermissionDenied
    fmt = OWN_FORMATS.get(request.GET.get("format", DEFAULT_FORMAT), OWN_FORMATS[DEFAULT_FORMAT])
    text = export_document(Service.objects.all() if rows is None else rows, fmt=fmt.name)
    response = HttpResponse(text, content_type=f"{fmt.content_type}; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="registry.{fmt.extension}"'
    response["Cache-Control"] = "private, no-store"
    return response


@takes_large_bodies
@csrf_exempt  # until the size is known: checking the token reads the whole request
def import_view(request: HttpRequest) -> HttpResponse:
    """Shows the form, then the changes, and writes them once confirmed. The digest ties the writing to the page."""
    if not request.user.has_perms([f"inventory.{verb}_{model}" for verb in ("add", "change") for model in MODELS]):
        raise PermissionDenied
    if request.method == "POST" and (problem := upload_problem(request)):
        return _page(request, ImportForm(), problems=[problem], status=413)
    view: Callable[[HttpRequest], HttpResponse] = csrf_protect(_import)
    return view(request)


def _import(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return _page(request, ImportForm())
    form = ImportForm(request.POST, request.FILES, user=request.user)
    if not form.is_valid():
        return _page(request, form)
    deleting = form.cleaned_data["delete_others"]
    if deleting and not request.user.has_perms([f"inventory.delete_{model}" for model in MODELS]):
        raise PermissionDenied
    text = form.cleaned_data["document"]
    try:
        result = prepare_import(text, delete_unlisted=deleting, allow_empty=form.cleaned_data["allow_empty"])
        digest = request.POST.get("digest")
        removals = preview_import_removals(result)
        refusal = removal_refusal(request, removals) if digest else ""
        if digest == result.digest and refusal:
            messages.error(request, f"Nothing was imported. {refusal}")
        if digest != result.digest or refusal:
            if digest and digest != result.digest:
                messages.warning(
                    request, "Nothing was imported: the inventory has changed since. This is what it would do now."
                )
            kept = form.kept or (keep_document(request.user, text) if result.changes else None)
            return _page(request, form, result, kept=kept, removals=removals)
        with on_commit.syncing_on_commit() as outcomes, transaction.atomic():
            approve_import_removals(removals)
            result.apply()
    except DocumentError as error:
        return _page(request, form, problems=error.problems, status=400)
    if form.kept:
        form.kept.delete()
    messages.success(request, f"Imported: {result.summary}.")
    add_sync_messages(request, outcomes)
    return redirect("admin:inventory_service_changelist")


def _page(
    request: HttpRequest,
    form: ImportForm,
    result: Import | None = None,
    *,
    kept: UploadedDocument | None = None,
    removals: RemovalPreview = NO_REMOVALS,
    problems: Sequence[object] = (),
    status: int = 200,
) -> HttpResponse:
    advice: list[tuple[str, LintWarning]] = []
    if result is not None:
        changed = {change.service for change in result.changes}
        for service, instances in result.declared[:MAX_CHANGES_ON_PAGE]:
            if service.name in changed:
                advice += [(service.name, item) for item in lint_declaration(service, instances)]
    in_consul = preview_in_consul(result) if result and result.changes else None
    context = {
        **admin.site.each_context(request),
        "title": "Import services",
        "opts": Service._meta,
        "form": form,
        "import": result,
        "changes": result.changes[:MAX_CHANGES_ON_PAGE] if result else [],
        "in_consul": in_consul,
        "planned": in_consul.plan.items[:MAX_CHANGES_ON_PAGE] if in_consul and in_consul.plan else [],
        "notes": result.notes[:MAX_CHANGES_ON_PAGE] if result else [],
        "advice": advice[:MAX_ADVICE_ON_PAGE],
        "kept": kept,
        "removals": removals,
        "removals_field": FIELD,
        "no_right": missing_right(request, removals),
        "problems": problems,
    }
    return TemplateResponse(request, "admin/inventory/import.html", context, status=status)
