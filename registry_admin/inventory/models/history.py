"""History of sync runs and of health, deleted at the age of REGISTRY_HISTORY_KEPT."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class SyncRun(models.Model):
    """A run that changed something, or failed: its trigger and actor, its plan and its results.

    The row is written before anything is applied, so that a run whose process was killed is known too.
    """

    class Trigger(models.TextChoices):
        """Causes of a run."""

        SAVE = "save", "Declaration changed"
        ACTION = "action", "Sync now"
        COMMAND = "command", "sync_registry"
        PLAN_FILE = "plan_file", "Reviewed plan"
        WATCH = "watch", "Watcher"
        TAKEOVER = "takeover", "Takeover"

    class Outcome(models.TextChoices):
        """Results of a run."""

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


class EvictionHalt(models.Model):
    """A time in which instances of a group weren't evicted, because too many of them failed together.

    `ended_at` is empty while it goes on. `instances`: those that are down, as node and ID. A person may confirm that
    these are dead: then they are evicted.
    """

    kind = models.CharField(max_length=16, help_text="Datacenter, node or service.")
    name = models.CharField(max_length=512, blank=True)
    began_at = models.DateTimeField(default=timezone.now, db_index=True)
    ended_at = models.DateTimeField(null=True, help_text="Empty: it goes on.")
    instances = models.JSONField(default=list, help_text="Those that are down.")
    total = models.PositiveIntegerField(default=0, help_text="How many instances the group has.")
    confirmed_at = models.DateTimeField(null=True, help_text="When somebody confirmed that they are dead.")
    confirmed_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-began_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "name"], condition=models.Q(ended_at=None), name="one_open_halt_per_group"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


class HealthTransition(models.Model):
    """A change of an instance's health. `before` is empty for a new instance, `after` for a removed one."""

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
