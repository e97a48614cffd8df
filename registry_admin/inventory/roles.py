"""Groups for users: viewers, operators who also edit and sync, pruners who also remove. Created by each migration."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import connections

VIEWERS, OPERATORS, PRUNERS = "Registry viewers", "Registry operators", "Registry pruners"
AUDIT = "view_auditevent"  # names people and their addresses: given to persons, not to groups
_EDIT_PERMISSIONS = ("add_service", "change_service", "add_instance", "change_instance", "sync_service")
_REMOVE_PERMISSIONS = ("delete_service", "delete_instance", "prune_service")


def make_groups(using: str = "default", **_kwargs: Any) -> None:
    """Creates the groups and adds missing permissions; permissions that people have added stay."""
    from django.contrib.auth.management import create_permissions  # noqa: PLC0415 - models must be loaded first
    from django.contrib.auth.models import Group, Permission  # noqa: PLC0415

    if Group._meta.db_table not in connections[using].introspection.table_names():
        return  # only some apps are migrated yet
    create_permissions(apps.get_app_config("inventory"), verbosity=0, using=using)
    permissions = Permission.objects.using(using).filter(content_type__app_label="inventory")
    by_code = {permission.codename: permission for permission in permissions}
    views = tuple(code for code in by_code if code.startswith("view_") and code != AUDIT)
    for name, codes in (
        (VIEWERS, views),
        (OPERATORS, views + _EDIT_PERMISSIONS),
        (PRUNERS, views + _EDIT_PERMISSIONS + _REMOVE_PERMISSIONS),
    ):
        group, _ = Group.objects.using(using).get_or_create(name=name)
        group.permissions.add(*(by_code[code] for code in codes if code in by_code))
