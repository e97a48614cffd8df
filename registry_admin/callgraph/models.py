"""Calls between services, as the callers report them."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class CallCount(models.Model):
    """The calls of one service to another within five minutes, summed over all processes of the caller."""

    at = models.DateTimeField(help_text="When the five minutes began.")
    caller = models.CharField(max_length=128)
    called = models.CharField(max_length=128)
    calls = models.PositiveBigIntegerField(default=0)
    failures = models.PositiveBigIntegerField(default=0, help_text="Of those, how many failed after all attempts.")
    milliseconds = models.FloatField(default=0, help_text="All calls together.")
    slowest_ms = models.FloatField(default=0)

    class Meta:
        db_table = "inventory_callcount"  # the app that the model was in when databases were made
        ordering = ["-at", "caller", "called"]
        constraints = [models.UniqueConstraint(fields=["at", "caller", "called"], name="one_count_per_pair_and_time")]

    def __str__(self) -> str:
        return f"{self.caller} to {self.called}: {self.calls} calls from {self.at:%Y-%m-%d %H:%M}"


class ModuleToken(models.Model):
    """A module's token for its reports. The row has a hash of the secret, and stays when the token is revoked.

    `module` is the service that it speaks for. The row with an empty one counts the reports of REGISTRY_REPORT_TOKEN,
    which speaks for each module that has no token of its own.
    """

    key = models.CharField(max_length=16, unique=True, editable=False, help_text="The part before the dot; no secret.")
    module = models.CharField(max_length=128, blank=True, help_text="The name of the service that reports its calls.")
    secret_hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.CharField(max_length=150, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    used_at = models.DateTimeField(null=True, editable=False, help_text="The minute of the last report.")
    reports = models.PositiveIntegerField(default=0, editable=False, help_text="Reports within that minute.")

    class Meta:
        ordering = ["module", "-created_at"]

    def __str__(self) -> str:
        return f"{self.module or 'the shared token'} ({self.key})"
