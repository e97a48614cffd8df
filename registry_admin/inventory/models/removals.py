"""Removals from Consul that people have confirmed, until they are carried out."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from registry_admin.reconcile.brake import Approval


class RemovalApproval(models.Model):
    """A person's word that an instance may leave Consul. The run that removes it, whichever it is, asks for it."""

    consul_id = models.CharField("service ID", max_length=512, unique=True)
    approval = models.PositiveSmallIntegerField(choices=[(approval.value, approval.name) for approval in Approval])
    actor = models.CharField(max_length=150, blank=True)
    approved_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["consul_id"]
        verbose_name = "confirmed removal"
        verbose_name_plural = "confirmed removals"

    def __str__(self) -> str:
        return self.consul_id
