"""What the sync after an import would do in Consul: shown before anything is written."""

from __future__ import annotations

from django.db import transaction

from registry_admin.errors import RegistryError
from registry_admin.inventory.conf import snapshot_reader
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.exchange.changes import Import
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.result import SyncResult


def preview_in_consul(prepared: Import) -> SyncResult:
    """Returns the plan of the sync after this import, with the brake's conclusion. `error`: why Consul can't be asked.

    The import is written in a transaction that is rolled back, so that the plan is the one that the sync would make.
    What it was prepared from must not be applied afterwards: prepare it again.
    """
    try:
        snapshot = snapshot_reader().read()  # no transaction waits for Consul
        with database_errors(), transaction.atomic():
            prepared.write()
            _, result = Reconciler(trigger="", only=frozenset(prepared.names)).preview(snapshot=snapshot)
            transaction.set_rollback(True)
    except RegistryError as error:
        return SyncResult(error=error)
    return result
