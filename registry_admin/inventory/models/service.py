"""Declared services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from django.db import models
from django.db.models.functions import Lower

from registry_admin.consul import CheckKind, CheckSpec, Health, check_fields, validation
from registry_admin.consul.checks import CHECK_CHOICES
from registry_admin.consul.marks import RESERVED_META
from registry_admin.consul.service_spec import MAX_OWN_META
from registry_admin.errors import InvalidValueError
from registry_admin.inventory.models.audit import DeclarationHistory
from registry_admin.inventory.models.secrets import revealed
from registry_admin.inventory.models.statuses import HEALTHS, SYNC_STATUSES
from registry_admin.inventory.models.validated_declaration import ValidatedDeclaration
from registry_admin.reconcile.plan import SyncStatus

MAX_CHECK_PATH = 500


class Service(ValidatedDeclaration):
    """A declared service: a service that should be in Consul, and the health check of its instances."""

    DOCUMENT_KEYS = {"deregister_after": "check.deregister_after"}
    SECRETS = frozenset({"check_headers"})
    NOT_REGISTERED = frozenset({"description", "owner", "documentation_url"})

    Check = CheckKind

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

    check_kind = models.CharField("check", max_length=8, choices=CHECK_CHOICES, default=CheckKind.HTTP.value)
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
    check_method = models.CharField("method", max_length=20, default="GET", blank=True, help_text="Of HTTP checks.")
    check_headers = models.JSONField("headers", default=dict, blank=True)
    check_body = models.TextField("body", blank=True, max_length=check_fields.MAX_BODY, help_text="Of HTTP checks.")
    check_disable_redirects = models.BooleanField(
        "no redirects", default=False, help_text="Of HTTP checks, from Consul 1.11.5 on."
    )
    check_tls_skip_verify = models.BooleanField("accept any certificate", default=False)
    check_tls_server_name = models.CharField(
        "certificate's name", max_length=253, blank=True, help_text="Empty: the address. From Consul 1.10 on."
    )
    check_grpc_service = models.CharField(
        "gRPC service", max_length=check_fields.MAX_GRPC_SERVICE, blank=True, help_text="Empty: the whole server."
    )
    check_grpc_use_tls = models.BooleanField("gRPC with TLS", default=False)
    check_success_before_passing = models.PositiveSmallIntegerField(
        "passing after", default=0, blank=True, help_text="So many runs in a row pass. 0: Consul's default."
    )
    check_failures_before_warning = models.PositiveSmallIntegerField(
        "warning after",
        default=0,
        blank=True,
        help_text="So many runs in a row fail, from Consul 1.11 on. 0: Consul's default.",
    )
    check_failures_before_critical = models.PositiveSmallIntegerField(
        "critical after", default=0, blank=True, help_text="So many runs in a row fail. 0: Consul's default."
    )

    sync_status = models.CharField(
        "sync", max_length=16, choices=SYNC_STATUSES.choices, default=SyncStatus.UNKNOWN, editable=False
    )
    health = models.CharField(max_length=16, choices=HEALTHS.choices, default=Health.UNKNOWN, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField("changed", auto_now=True)

    history = DeclarationHistory()
    saved_name = ""  # in the database, when the row was loaded or last saved; as are the check's headers
    saved_headers: Mapping[str, str] = MappingProxyType({})

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

    def track_saved(self) -> None:
        """Remembers the name and the check's headers."""
        loaded = self.__dict__
        self.saved_name = loaded.get("name", "")
        self.saved_headers = MappingProxyType(dict(loaded.get("check_headers", {})))

    def normalizers(self) -> dict[str, Callable[[Any], Any]]:
        """Returns the rules of consul.validation for each field."""
        return {
            "name": lambda value: validation.not_consul_itself(validation.service_name(value), "name"),
            "tags": lambda value: list(validation.tags(value)),
            "meta": lambda value: validation.meta(value, reserved=RESERVED_META, maximum=MAX_OWN_META),
            "check_kind": _check_kind,
            **{f"check_{name}": partial(_canonical, rule) for name, rule in check_fields.RULES.items()},
            "check_path": _check_path,
            "check_headers": self._headers,
            "deregister_after": lambda value: validation.duration(value) if value else "",
            "documentation_url": _web_link,
        }

    def _headers(self, value: Any) -> dict[str, str]:
        """Returns headers whose hidden values are those that are saved."""
        if isinstance(value, dict):
            value = revealed(value, self.saved_headers)
        return check_fields.headers(value, "headers")

    def check_spec(self) -> CheckSpec:
        """Returns the health check of every instance of this service."""
        fields = {name: getattr(self, f"check_{name}") for name in check_fields.RULES}
        return CheckSpec(kind=CheckKind(self.check_kind), deregister_after=self.deregister_after or None, **fields)


def _canonical(rule: Callable[[Any, str], Any], value: Any) -> Any:
    return rule(value, "")


def _check_kind(value: str) -> str:
    kinds = [kind.value for kind in CheckKind]
    if value not in kinds:
        raise InvalidValueError("choice", value, f"give one of {', '.join(kinds)}")
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
