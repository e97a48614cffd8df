"""Keeps previewed documents until they are imported, and refuses requests that are too large before reading them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils import timezone

from registry_admin.inventory.exchange.limits import MAX_BYTES, TOO_LARGE
from registry_admin.inventory.models import UploadedDocument
from registry_admin.inventory.models.documents import KEPT

MAX_KEPT = 5  # documents of one user
MAX_REQUEST_BYTES = MAX_BYTES + 100_000  # the document, and what a browser sends around it
MAX_DRAINED_BYTES = 10 * MAX_BYTES


def takes_large_bodies(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Marks a view that looks at its user and at the size of the body before it reads it."""
    view.takes_large_bodies = True  # type: ignore[attr-defined]
    return view


def keep_document(user: Any, text: str) -> UploadedDocument:
    """Keeps a document of this user, and forgets the user's oldest and all that have waited too long."""
    document = UploadedDocument.objects.create(user=user, text=text)
    UploadedDocument.objects.filter(uploaded_at__lt=timezone.now() - KEPT).delete()
    newest = UploadedDocument.objects.filter(user=user).order_by("-uploaded_at").values_list("pk", flat=True)
    UploadedDocument.objects.filter(user=user).exclude(pk__in=list(newest[:MAX_KEPT])).delete()
    return document


def kept_document(user: Any, key: str) -> UploadedDocument | None:
    """Returns a document that this user has uploaded, while it is kept."""
    try:
        uuid.UUID(key)
    except ValueError:
        return None
    return UploadedDocument.objects.filter(pk=key, user=user, uploaded_at__gte=timezone.now() - KEPT).first()


def upload_problem(request: HttpRequest) -> str:
    """Returns why the request's form can't be read; empty where it can."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if int(length if length.isascii() and length.isdigit() else 0) > MAX_REQUEST_BYTES:
        _drain(request)
        return f"The document can't be taken: {TOO_LARGE}."
    try:
        _ = request.POST
    except RequestDataTooBig:
        _drain(request)
        limit = filesizeformat(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        return f"The pasted text is larger than {limit}: choose it as a file."
    return ""


def _drain(request: HttpRequest) -> None:
    """Reads on without keeping anything: a browser shows no page to whoever can't finish sending."""
    for _ in range(MAX_DRAINED_BYTES // 65_536):
        if not request.read(65_536):
            return
