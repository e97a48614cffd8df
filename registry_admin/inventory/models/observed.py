"""Mirror of Consul: all instances of the last snapshot, and the time of the last contact."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from registry_admin.inventory.models.statuses import HEALTHS, SYNC_STATUSES


class ObservedInstance(models.Model):
    """An instance of the last snapshot, owned or not; ConsulContact has the snapshot's time."""

    datacenter = models.CharField(max_length=128, blank=True)
    node = models.CharField(max_length=512, blank=True)
    consul_id = models.CharField("service ID", max_length=512, db_index=True)
    service_name = models.CharField("service", max_length=512, db_index=True)
    address = models.CharField(max_length=512, blank=True)
    port = models.IntegerField()
    tags = models.JSONField(default=list)
    meta = models.JSONField(default=dict)
    weight = models.IntegerField(default=1)
    owner = models.CharField(max_length=512, blank=True)
    owned = models.BooleanField(default=False, help_text="It carries this inventory's mark, which is beyond doubt.")
    declared = models.BooleanField(default=False, help_text="The declaration of its ID is about it.")
    registered_itself = models.BooleanField(default=False)
    sync_status = models.CharField("sync", max_length=16, choices=SYNC_STATUSES.choices, db_index=True)
    sync_reason = models.CharField(max_length=500, blank=True)
    sync_cause = models.CharField(max_length=32, blank=True, help_text="What has happened.")
    sync_action = models.CharField(max_length=16, blank=True, help_text="What the next pass does.")
    health = models.CharField(max_length=16, choices=HEALTHS.choices, db_index=True)
    health_since = models.DateTimeField(default=timezone.now)
    checks = models.JSONField(default=list)
    note = models.CharField(max_length=500, blank=True, help_text="Such as: flapping.")
    fingerprint = models.CharField(max_length=40, blank=True, help_text="Of what Consul says of it.")
    first_seen = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["service_name", "consul_id"]
        constraints = [models.UniqueConstraint(fields=["datacenter", "node", "consul_id"], name="one_row_per_place")]
        verbose_name = "instance in Consul"
        verbose_name_plural = "instances in Consul"

    def __str__(self) -> str:
        return self.consul_id


class ConsulContact(models.Model):
    """The only row: the last contact with Consul, since when it is reachable or not, and the agent that was read."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    reachable = models.BooleanField(default=False)
    since = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(null=True)
    looked_at = models.DateTimeField(null=True, help_text="When the look began that the mirror shows.")
    datacenter = models.CharField(max_length=128, blank=True)
    node = models.CharField(max_length=512, blank=True)
    node_id = models.CharField(max_length=64, blank=True)
    problem = models.TextField(blank=True)
    halted = models.TextField(blank=True, help_text="Why nothing is evicted now.")
    doubt = models.TextField(blank=True, help_text="Why nothing is removed now.")
    uncompared = models.TextField(blank=True, help_text="Why the catalog isn't compared with our agent.")
    divergence = models.JSONField(default=dict, help_text="Where the catalog differs from our agent, and since when.")
    revision = models.PositiveBigIntegerField(default=0, help_text="Goes up whenever anything that pages show changed.")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="a_single_consul_contact")]

    def __str__(self) -> str:
        return "reachable" if self.reachable else f"unreachable: {self.problem}"


class ObservationGap(models.Model):
    """A period without contact: Consul was away, or no watcher was running. Health in it is unknown."""

    began_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True, help_text="Empty: it goes on.")
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["-began_at"]

    def __str__(self) -> str:
        return f"{self.began_at:%Y-%m-%d %H:%M:%S} to {f'{self.ended_at:%H:%M:%S}' if self.ended_at else 'now'}"
