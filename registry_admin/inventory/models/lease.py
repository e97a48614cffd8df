"""The leader lease of the watchers."""

from __future__ import annotations

from django.db import models


class Lease(models.Model):
    """The only row: holder of the lease, and since when and until when, by the database's clock."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    holder = models.CharField(max_length=200, blank=True, help_text="Host, process and a random part.")
    since = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    next_pass_at = models.DateTimeField(null=True, help_text="When the next full pass is due at the latest.")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="a_single_lease")]

    def __str__(self) -> str:
        return self.holder or "nobody"
