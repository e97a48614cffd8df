"""Imports a document into the inventory: compares it item by item, then writes all changes or none."""

from __future__ import annotations

from registry_admin.inventory.exchange.changes import Import
from registry_admin.inventory.exchange.document import read_document
from registry_admin.inventory.exchange.document_matcher import DocumentMatcher
from registry_admin.inventory.exchange.errors import DocumentError
from registry_admin.inventory.models import Instance, Service

NO_SERVICES = "it lists no service, so everything would be deleted. If that is meant, say so: --allow-empty, or its box"


def prepare_import(text: str, *, delete_unlisted: bool = False, allow_empty: bool = False) -> Import:
    """Compares a document with the inventory and writes nothing. Raises DocumentError with every problem.

    The document is one of ours, or one of Consul's own. `delete_unlisted`: also delete what the document doesn't list;
    it then lists something, or `allow_empty` is set.
    """
    document = read_document(text)
    if delete_unlisted and not document.is_complete:
        text = f"read as {document.label}, it can't tell what else there should be: import it without deleting"
        raise DocumentError.at(0, text)
    if delete_unlisted and not document.entries and not allow_empty:
        raise DocumentError.at(0, NO_SERVICES)
    services = {row.pk: row for row in Service.objects.all()}
    instances = list(Instance.objects.all())
    for row in instances:
        row.service = services[row.service_id]
    result = DocumentMatcher(services.values(), instances, delete_unlisted=delete_unlisted).compare(document.entries)
    result.label, result.notes = document.label, document.notes
    return result
