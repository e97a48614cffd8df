"""Declared instances."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower

from registry_admin.consul import ServiceSpec, validation
from registry_admin.consul.instance_fields import declared_address, declared_port, warning_weight
from registry_admin.consul.marks import RESERVED_META
from registry_admin.consul.service_spec import MAX_OWN_META
from registry_admin.consul.tagged_addresses import tagged_addresses
from registry_admin.errors import ConfigurationError, InvalidValueError
from registry_admin.inventory.conf import consul_api
from registry_admin.inventory.models.audit import DeclarationHistory
from registry_admin.inventory.models.service import Service
from registry_admin.inventory.models.statuses import SYNC_STATUSES
from registry_admin.inventory.models.validated_declaration import ValidatedDeclaration
from registry_admin.reconcile.plan import SyncStatus


class Instance(ValidatedDeclaration):
    """A declared instance: an address and port of a service."""

    DOCUMENT_KEYS = {"consul_id": "id", "extra_tags": "tags", "extra_meta": "meta"}
    RESET_BY_CLEAN = (
        "claimed_datacenter", "claimed_node", "departed", "departed_node", "applied_digest", "evicted_at",
        "evicted_reason", "replaces", "maintenance_index",
    )  # fmt: skip

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="instances")
    address = models.CharField(
        max_length=253, blank=True, help_text="An IP address or a host name that others can reach. Empty: its node's."
    )
    port = models.PositiveIntegerField(help_text="0: none.")
    consul_id = models.CharField(
        "service ID", max_length=validation.MAX_ID, blank=True, help_text="Empty: name-address-port."
    )
    weight = models.PositiveIntegerField(default=1, help_text="Its share of calls relative to the others'.")
    warning_weight = models.PositiveIntegerField(
        null=True, blank=True, help_text="Its weight while a check warns. Empty: the same."
    )
    tag_override = models.BooleanField(default=False, help_text="Others may change its tags in Consul.")
    tagged_addresses = models.JSONField(default=dict, blank=True)
    extra_tags = models.JSONField(default=list, blank=True)
    extra_meta = models.JSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True)

    claimed_datacenter = models.CharField(max_length=128, blank=True, editable=False)
    claimed_node = models.CharField(max_length=512, blank=True, editable=False, help_text="Where we registered it.")
    departed = models.BooleanField(default=False, editable=False)
    departed_node = models.CharField(max_length=512, blank=True, editable=False, help_text="Where it left by itself.")
    released = models.BooleanField(default=False, editable=False, help_text="On its way out of here, not of Consul.")
    applied_digest = models.CharField(max_length=40, blank=True, editable=False, help_text="When last seen in sync.")
    evicted_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Empty: it isn't evicted.")
    evicted_reason = models.CharField(max_length=500, blank=True, editable=False)
    replaces = models.JSONField(default=list, editable=False, help_text="Former IDs, which stay until it passes.")
    maintenance = models.CharField(
        max_length=512, blank=True, editable=False, help_text="The reason. Empty: it is not in maintenance."
    )
    maintenance_index = models.PositiveBigIntegerField(
        default=0, editable=False, help_text="CreateIndex of what is in maintenance. 0: it is to be put into it."
    )
    updated_at = models.DateTimeField("changed", auto_now=True)
    sync_status = models.CharField(
        "sync", max_length=16, choices=SYNC_STATUSES.choices, default=SyncStatus.UNKNOWN, editable=False
    )
    sync_reason = models.CharField(max_length=500, blank=True, editable=False)
    sync_cause = models.CharField(max_length=32, blank=True, editable=False, help_text="What has happened.")
    sync_action = models.CharField(max_length=16, blank=True, editable=False, help_text="What the next pass does.")
    differences = models.JSONField(default=list, editable=False)
    history = DeclarationHistory()

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
                condition=~models.Q(port=0),  # which says nothing about where it is
                name="one_instance_per_address",
                violation_error_message="This service has an instance at this address and port already.",
            ),
        ]

    id_is_given = False  # the ID was given as such: it stays even if it is the default of the saved address
    is_saved_with_others = False  # who saves them compares their unique values as they will be
    saved_id = ""  # service ID, address and port in the database, when the row was loaded or last saved
    saved_endpoint: tuple[str, int] = ("", 0)

    def __str__(self) -> str:
        return self.consul_id or f"{self.address}:{self.port}"

    def track_saved(self) -> None:
        """Remembers the service ID, address and port."""
        loaded = self.__dict__
        self.saved_id = loaded.get("consul_id", "")
        self.saved_endpoint = loaded.get("address", ""), loaded.get("port", 0)

    def normalizers(self) -> dict[str, Callable[[Any], Any]]:
        """Returns the rules of consul.validation for each field. An empty service ID becomes the default."""
        return {
            "address": declared_address,
            "port": self._port,
            "weight": validation.weight,
            "warning_weight": warning_weight,
            "tagged_addresses": tagged_addresses,
            "extra_tags": lambda value: list(validation.tags(value)),
            "extra_meta": lambda value: validation.meta(value, reserved=RESERVED_META, maximum=MAX_OWN_META),
            "consul_id": self._consul_id,
        }

    def clean(self) -> None:
        """Puts each field into its canonical form, and checks the spec that it makes with its service.

        Raises ValidationError, also for more tags or meta than Consul takes from both together.
        """
        super().clean()
        if self.consul_id != self.saved_id:  # an instance in Consul under the new ID belongs to somebody else
            self.departed = False
            self.claimed_datacenter = self.claimed_node = self.departed_node = self.applied_digest = ""
            self._remember_saved_id()
        if self.saved_endpoint not in (("", 0), (self.address, self.port)):  # the new endpoint may well answer
            self.evicted_at, self.evicted_reason = None, ""
        try:
            self.service.clean()
        except ValidationError:
            return  # an error of the service's own form
        try:
            spec = self.spec()
        except InvalidValueError as error:
            if error.field == "port":  # which the service's kind of check needs
                raise ValidationError({"port": error.reason}) from error
            raise ValidationError(f"Together with the service's own: {error}") from error
        if self.saved_endpoint != (self.address, self.port):
            self._check_target(spec)

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """Compares unique values with the database, unless the row is saved together with others."""
        if not self.is_saved_with_others:
            super().validate_constraints(exclude)

    def _remember_saved_id(self) -> None:
        """Remembers the former ID, which stays in Consul until the new one passes. Maintenance mode moves along."""
        former = [*self.replaces, *([self.saved_id] if self.saved_id else [])]
        self.replaces = [key for key in dict.fromkeys(former) if key != self.consul_id]
        self.maintenance_index = 0

    def _check_target(self, spec: ServiceSpec) -> None:
        """Raises ValidationError for an address, or a name of one, that a check must not be pointed at."""
        try:
            with suppress(ConfigurationError):  # reported by a system check; editing stays possible
                consul_api().check_target(spec)
        except InvalidValueError as error:
            raise ValidationError({error.field: error.reason}) from error

    def _port(self, value: Any) -> int:
        port = declared_port(value)
        with suppress(ConfigurationError):  # reported by a system check; editing stays possible
            consul_api().refuse_own_port(self.address, port)
        return port

    def _consul_id(self, value: Any) -> str:
        """Returns the given ID, or the default where it is empty or was the default of the saved values."""
        address, port = self.saved_endpoint
        names = (self.service.name, self.service.saved_name) if self.saved_id and not self.id_is_given else ()
        if value and value not in {_default_id(name, address, port) for name in names}:
            return validation.service_id(value)
        return _default_id(self.service.name, self.address, self.port)

    def spec(self) -> ServiceSpec:
        """Returns the registration. Raises InvalidValueError for a row that was written without validation."""
        return ServiceSpec(
            name=self.service.name,
            address=self.address,
            port=self.port,
            id=self.consul_id,
            tags=(*self.service.tags, *self.extra_tags),
            meta={**self.service.meta, **self.extra_meta},
            weight=self.weight,
            warning_weight=self.warning_weight,
            tag_override=self.tag_override,
            tagged_addresses=self.tagged_addresses,
            check=self.service.check_spec(),
        )


def _default_id(name: str, address: str, port: int) -> str:
    """Returns the default service ID, or nothing for what is invalid and is reported where it was given."""
    with suppress(InvalidValueError):
        return validation.default_service_id(name, address, port)
    return ""
