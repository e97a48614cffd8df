"""Who calls whom, as the callers report it."""

from __future__ import annotations

from django.db import models


class CallCount(models.Model):
    """The calls of one service to another within five minutes, all processes of the caller together."""

    at = models.DateTimeField(help_text="When the five minutes began.")
    caller = models.CharField(max_length=128)
    called = models.CharField(max_length=128)
    calls = models.PositiveBigIntegerField(default=0)
    failures = models.PositiveBigIntegerField(default=0, help_text="Of those, how many failed after all attempts.")
    milliseconds = models.FloatField(default=0, help_text="All calls together.")
    slowest_ms = models.FloatField(default=0)

    class Meta:
        ordering = ["-at", "caller", "called"]
        constraints = [models.UniqueConstraint(fields=["at", "caller", "called"], name="one_count_per_pair_and_time")]

    def __str__(self) -> str:
        return f"{self.caller} to {self.called}: {self.calls} calls from {self.at:%Y-%m-%d %H:%M}"
