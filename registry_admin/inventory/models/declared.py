"""What should be: services and their instances, as people declare them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Self

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower

from registry_admin.consul import CheckKind, CheckSpec, ServiceSpec, validation
from registry_admin.consul.types import MAX_OWN_META, RESERVED_META
from registry_admin.errors import ConfigurationError, InvalidValueError
from registry_admin.inventory.conf import consul_api
from registry_admin.inventory.models.audit import declared_history
from registry_admin.inventory.models.statuses import Health, SyncStatus

MAX_CHECK_PATH = 500


class Validated(models.Model):
    """A model whose fields go through `consul.validation`, in forms and in code alike."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves, after the same validation that a form gives."""
        self.clean()
        super().save(*args, **kwargs)
        self.remember()

    @classmethod
    def from_db(cls, db: str | None, field_names: Collection[str], values: Collection[Any], **options: Any) -> Self:
        """As it was loaded is how Consul may know it."""
        row = super().from_db(db, field_names, values, **options)
        row.remember()
        return row

    def remember(self) -> None:
        """Notes what Consul may know it by, in case that is about to change."""
        raise NotImplementedError

    def rules(self) -> dict[str, Callable[[Any], Any]]:
        """For each field, the function that returns its canonical value or raises InvalidValueError."""
        raise NotImplementedError

    def clean(self) -> None:
        """Puts each field into its canonical form; raises ValidationError with every field that can't be."""
        super().clean()
        problems: dict[str, str] = {}
        for name, rule in self.rules().items():
            try:
                setattr(self, name, rule(getattr(self, name)))
            except InvalidValueError as error:
                # A pair's own key stands in the message, so that it can be found among the others.
                where = error.field.partition(".")[2]
                problems[name] = f"{where}: {error.reason}" if where else error.reason
        if problems:
            raise ValidationError(problems)


class Service(Validated):
    """A declaration: a service that should be in Consul, and how its instances are checked."""

    class Check(models.TextChoices):
        """How Consul checks an instance."""

        HTTP = CheckKind.HTTP.value, "HTTP: GET a path, 2xx passes"
        TCP = CheckKind.TCP.value, "TCP: connect to the port"
        TTL = CheckKind.TTL.value, "TTL: the instance reports in time"
        NONE = CheckKind.NONE.value, "None: always passing"

    class Scheme(models.TextChoices):
        """The scheme of an HTTP check."""

        HTTP = "http", "http"
        HTTPS = "https", "https"

    name = models.CharField(max_length=validation.MAX_NAME, help_text="As modules call it, such as backend-api.")
    description = models.CharField(max_length=500, blank=True)
    owner = models.CharField(max_length=200, blank=True, help_text="The team or person to ask.")
    documentation_url = models.URLField("documentation", max_length=500, blank=True)
    tags = models.JSONField(default=list, blank=True)
    meta = models.JSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True, help_text="Disabled services are taken out of Consul and kept here.")

    check_kind = models.CharField("check", max_length=8, choices=Check, default=Check.HTTP)
    check_path = models.CharField("path", max_length=MAX_CHECK_PATH, default="/health", help_text="For HTTP checks.")
    check_scheme = models.CharField("scheme", max_length=5, choices=Scheme, default=Scheme.HTTP)
    check_interval = models.CharField(
        "interval", max_length=64, default="10s", help_text="How often, such as 10s or 1m."
    )
    check_timeout = models.CharField("timeout", max_length=64, default="5s")
    deregister_after = models.CharField(
        max_length=64,
        default="30s",
        blank=True,
        help_text="An instance critical for longer than this is taken out. Empty: never.",
    )

    sync_status = models.CharField(
        "sync", max_length=16, choices=SyncStatus, default=SyncStatus.UNKNOWN, editable=False
    )
    health = models.CharField(max_length=16, choices=Health, default=Health.UNKNOWN, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField("changed", auto_now=True)

    history = declared_history(["sync_status", "health", "updated_at"])
    former_name = ""  # what it was called when it was loaded or last saved

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                Lower("name"),
                name="service_name_ignoring_case",
                violation_error_message="There is a service of this name already (upper and lower case are the same).",
            )
        ]
        indexes = [models.Index(fields=["sync_status"]), models.Index(fields=["health"])]
        permissions = [
            ("sync_service", "Can sync services with Consul, and put them into maintenance"),
            ("prune_service", "Can remove from Consul what is no longer declared"),
        ]

    def __str__(self) -> str:
        return self.name

    def remember(self) -> None:
        """Its name. A deferred field isn't fetched for this."""
        self.former_name = self.__dict__.get("name", "")

    def rules(self) -> dict[str, Callable[[Any], Any]]:
        """The inventory has no rules of its own: all are in consul.validation."""
        return {
            "name": lambda value: validation.not_consul_itself(validation.service_name(value), "name"),
            "tags": lambda value: list(validation.tags(value)),
            "meta": lambda value: validation.meta(value, reserved=RESERVED_META, maximum=MAX_OWN_META),
            "check_kind": partial(_one_of, self.Check),
            "check_scheme": partial(_one_of, self.Scheme),
            "check_path": _check_path,
            "check_interval": validation.duration,
            "check_timeout": lambda value: validation.duration(value, minimum_s=0.1, maximum_s=600),
            "deregister_after": lambda value: validation.duration(value) if value else "",
            "documentation_url": _web_link,
        }

    def check_spec(self) -> CheckSpec:
        """The health check of every instance of this service."""
        return CheckSpec(
            kind=CheckKind(self.check_kind),
            path=self.check_path,
            scheme=self.check_scheme,
            interval=self.check_interval,
            timeout=self.check_timeout,
            deregister_after=self.deregister_after or None,
        )


class Instance(Validated):
    """A declared instance: one address and port of a service."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="instances")
    address = models.CharField(max_length=253, help_text="An IP address or a host name that others can reach.")
    port = models.PositiveIntegerField()
    consul_id = models.CharField(
        "service ID", max_length=validation.MAX_ID, blank=True, help_text="Empty: name-address-port."
    )
    weight = models.PositiveIntegerField(default=1, help_text="Its share of calls relative to the others'.")
    extra_tags = models.JSONField(default=list, blank=True)
    extra_meta = models.JSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True)

    claimed = models.BooleanField(default=False, editable=False)
    departed = models.BooleanField(default=False, editable=False)
    released = models.BooleanField(default=False, editable=False, help_text="On its way out of here, not of Consul.")
    applied_digest = models.CharField(max_length=40, blank=True, editable=False, help_text="When last seen in sync.")
    evicted_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Empty: it isn't evicted.")
    evicted_reason = models.CharField(max_length=500, blank=True, editable=False)
    updated_at = models.DateTimeField("changed", auto_now=True)
    sync_status = models.CharField(
        "sync", max_length=16, choices=SyncStatus, default=SyncStatus.UNKNOWN, editable=False
    )
    sync_reason = models.CharField(max_length=500, blank=True, editable=False)
    sync_cause = models.CharField(max_length=32, blank=True, editable=False, help_text="What has happened.")
    sync_action = models.CharField(max_length=16, blank=True, editable=False, help_text="What the next pass does.")
    differences = models.JSONField(default=list, editable=False)
    history = declared_history([
        "claimed", "departed", "released", "applied_digest", "evicted_at", "evicted_reason", "updated_at",
        "sync_status", "sync_reason", "sync_cause", "sync_action", "differences",
    ])  # fmt: skip

    class Meta:
        ordering = ["service__name", "address", "port"]
        constraints = [
            models.UniqueConstraint(
                Lower("consul_id"),
                name="consul_id_ignoring_case",
                violation_error_message="Another instance has this service ID already.",
            ),
            models.UniqueConstraint(
                fields=["service", "address", "port"],
                name="one_instance_per_address",
                violation_error_message="This service has an instance at this address and port already.",
            ),
        ]

    former_id = ""  # service ID, address and port when it was loaded or last saved
    former_place: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        return self.consul_id or f"{self.address}:{self.port}"

    def remember(self) -> None:
        """Its ID and address. A deferred field isn't fetched for this."""
        known = self.__dict__
        self.former_id = known.get("consul_id", "")
        self.former_place = known.get("address", ""), known.get("port", 0)

    def rules(self) -> dict[str, Callable[[Any], Any]]:
        """As for Service; a service ID left empty is filled in."""
        return {
            "address": validation.address,
            "port": self._port,
            "weight": validation.weight,
            "extra_tags": lambda value: list(validation.tags(value)),
            "extra_meta": lambda value: validation.meta(value, reserved=RESERVED_META, maximum=MAX_OWN_META),
            "consul_id": self._consul_id,
        }

    def clean(self) -> None:
        """As for Service; also refuses more meta than Consul takes once both are put together."""
        super().clean()
        if self.consul_id != self.former_id:  # whoever may be in Consul under the new ID, it isn't ours
            self.claimed = self.departed = False
            self.applied_digest = ""
        if self.former_place not in (("", 0), (self.address, self.port)):  # that may well be the cure
            self.evicted_at, self.evicted_reason = None, ""
        try:
            self.service.clean()
        except ValidationError:
            return  # the service's own form says what is wrong with it
        try:
            self.spec()
        except InvalidValueError as error:
            raise ValidationError(f"Together with the service's own: {error}") from error

    def _port(self, value: Any) -> int:
        port = validation.port(value)
        with suppress(ConfigurationError):  # named by a system check; an inventory can be edited all the same
            consul_api().refuse_own_port(self.address, port)
        return port

    def _consul_id(self, value: Any) -> str:
        """The given ID; one that was made from the address follows it."""
        address, port = self.former_place
        if value and value not in {
            f"{name}-{address}-{port}" for name in (self.service.name, self.service.former_name)
        }:
            return validation.service_id(value)
        with suppress(InvalidValueError):  # then the field that is wrong says so itself
            return validation.default_service_id(self.service.name, self.address, self.port)
        return ""

    def spec(self) -> ServiceSpec:
        """What should be registered; raises InvalidValueError for a row that was written past validation."""
        return ServiceSpec(
            name=self.service.name,
            address=self.address,
            port=self.port,
            id=self.consul_id,
            tags=(*self.service.tags, *self.extra_tags),
            meta={**self.service.meta, **self.extra_meta},
            weight=self.weight,
            check=self.service.check_spec(),
        )


def _one_of(choices: type[models.TextChoices], value: str) -> str:
    if value not in choices.values:
        raise InvalidValueError("choice", value, f"give one of {', '.join(choices.values)}")
    return value


def _check_path(value: str) -> str:
    path = validation.http_path(value, "check_path")
    if len(path) > MAX_CHECK_PATH:
        raise InvalidValueError("check_path", path[:40], f"at most {MAX_CHECK_PATH} characters")
    return path


def _web_link(value: str) -> str:
    if value and not value.startswith(("https://", "http://")):
        raise InvalidValueError("documentation_url", value, "give a link that begins with https:// or http://")
    return value
