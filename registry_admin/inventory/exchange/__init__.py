"""Declarations as a document, YAML or JSON: out of here, and into here after a look at what it would change."""

from registry_admin.inventory.exchange.exporting import export_document
from registry_admin.inventory.exchange.importing import Import, ItemChange, prepare_import
from registry_admin.inventory.exchange.reading import DocumentError, Problem

__all__ = ["DocumentError", "Import", "ItemChange", "Problem", "export_document", "prepare_import"]
