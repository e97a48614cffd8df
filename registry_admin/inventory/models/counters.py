"""Totals that only go up, whatever the history keeps: monitoring systems take their differences."""

from __future__ import annotations

from django.db import models


class EventCounter(models.Model):
    """A total over all processes, since the database was made. `label` tells the kinds of one name apart."""

    name = models.CharField(max_length=32)
    label = models.CharField(max_length=32, blank=True)
    total = models.FloatField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "label"], name="one_total_per_name_and_label")]

    def __str__(self) -> str:
        return f"{self.name} {self.label}".rstrip()
