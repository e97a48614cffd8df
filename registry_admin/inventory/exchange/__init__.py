"""Import and export of declarations as documents; an import shows what it would change before it writes."""

from registry_admin.inventory.exchange.changes import Import, ItemChange
from registry_admin.inventory.exchange.errors import DocumentError, Problem
from registry_admin.inventory.exchange.exporter import export_document
from registry_admin.inventory.exchange.importer import prepare_import

__all__ = ["DocumentError", "Import", "ItemChange", "Problem", "export_document", "prepare_import"]
