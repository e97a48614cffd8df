"""The inventory's identity, which its marks in Consul carry, and the instances that it has released."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from registry_admin.consul import validation


class InventoryIdentity(models.Model):
    """The only row: the inventory's UUID, made once per database, and the revision of what it has written to Consul."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    revision = models.PositiveBigIntegerField(default=0, help_text="Counted up before each run that writes to Consul.")
    newest_revision = models.PositiveBigIntegerField(
        default=0, help_text="The highest that Consul was seen to know; above revision: the database is older than it."
    )
    lost_after = models.PositiveBigIntegerField(default=0, help_text="The revision that the database was restored to.")
    lost_until = models.PositiveBigIntegerField(default=0, help_text="The last revision that this restore has lost.")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="a_single_inventory_identity")]

    def __str__(self) -> str:
        return f"{self.uuid}, revision {self.revision}"


class ReleasedInstance(models.Model):
    """An instance that was released. Where its mark is left in Consul it is nobody's, until it is declared again."""

    consul_id = models.CharField("service ID", max_length=validation.MAX_ID)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["consul_id"]
        constraints = [models.UniqueConstraint(Lower("consul_id"), name="one_release_per_id_ignoring_case")]

    def __str__(self) -> str:
        return self.consul_id
