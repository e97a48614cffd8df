"""The admin of accounts: Django's own, which finds rows whatever the address says."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group, User

from registry_admin.inventory.admin.base import KeyedAdmin

admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(KeyedAdmin, auth_admin.UserAdmin):  # type: ignore[type-arg]  # no generic at run time
    """Accounts."""


@admin.register(Group)
class GroupAdmin(KeyedAdmin, auth_admin.GroupAdmin):
    """Roles."""
