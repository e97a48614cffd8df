"""Tokens for the API."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class ApiToken(models.Model):
    """A token for the API, which reads what people see in the pages. The row has a hash of the secret.

    Rows stay when a token ends, so that no key is used twice.
    """

    key = models.CharField(max_length=16, unique=True, help_text="The part before the dot; no secret.")
    name = models.CharField(max_length=100, help_text="What it is for, such as: the pipeline of team blue.")
    secret_hash = models.CharField(max_length=64)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.CharField(max_length=150, blank=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True, help_text="The last use, to the minute.")
    used_from = models.CharField(max_length=64, blank=True, help_text="The address of the client that used it last.")

    class Meta:
        ordering = ["name", "-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.key})"
