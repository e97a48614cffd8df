"""What was done, by whose wish, and how health went: kept for as long as REGISTRY_HISTORY_KEPT says."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class SyncRun(models.Model):
    """One pass that changes something, or failed to: what was to be done, by whose wish, and what became of it.

    The row is there before anything is applied, so that a run whose process was killed is known too.
    """

    class Trigger(models.TextChoices):
        """What set it off."""

        SAVE = "save", "Declaration changed"
        ACTION = "action", "Sync now"
        COMMAND = "command", "sync_registry"
        PLAN_FILE = "plan_file", "Reviewed plan"
        WATCH = "watch", "Watcher"

    class Outcome(models.TextChoices):
        """How it ended."""

        RUNNING = "running", "Running"
        DONE = "done", "Done"
        PARTIAL = "partial", "Partly failed"
        REFUSED = "refused", "Refused as unsafe"
        FAILED = "failed", "Failed"
        INTERRUPTED = "interrupted", "Interrupted"
        ABANDONED = "abandoned", "Abandoned"

    trigger = models.CharField(max_length=10, choices=Trigger)
    actor = models.CharField(max_length=150, blank=True)
    holder = models.CharField(max_length=200, blank=True, help_text="The process that made it.")
    scope = models.JSONField(default=list, help_text="The services it was restricted to; empty: all.")
    started_at = models.DateTimeField(default=timezone.now, db_index=True)
    seconds = models.FloatField(default=0)
    outcome = models.CharField(max_length=12, choices=Outcome)
    planned = models.PositiveIntegerField(default=0, help_text="How many items it was to carry out.")
    registered = models.PositiveIntegerField(default=0)
    updated = models.PositiveIntegerField(default=0)
    deregistered = models.PositiveIntegerField(default=0)
    evicted = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    message = models.TextField(blank=True)
    items = models.JSONField(default=list)

    class Meta:
        ordering = ["-started_at", "-id"]

    def __str__(self) -> str:
        return f"{self.get_trigger_display()} at {self.started_at:%Y-%m-%d %H:%M:%S}: {self.get_outcome_display()}"


class HealthTransition(models.Model):
    """An instance's health changed; it appeared, or was gone (both empty); or it was evicted."""

    EVICTED = "evicted"

    at = models.DateTimeField(default=timezone.now, db_index=True)
    node = models.CharField(max_length=512, blank=True)
    service_name = models.CharField("service", max_length=512)
    consul_id = models.CharField("service ID", max_length=512)
    before = models.CharField(max_length=16, blank=True)
    after = models.CharField(max_length=16, blank=True)
    output = models.TextField(blank=True, help_text="What the checks said, or why it was evicted.")

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["service_name", "-at"]), models.Index(fields=["consul_id", "-at"])]

    def __str__(self) -> str:
        before, after = self.before or "not there", self.after or "not there"
        return f"{self.consul_id}: {before} to {after} at {self.at:%Y-%m-%d %H:%M:%S}"
