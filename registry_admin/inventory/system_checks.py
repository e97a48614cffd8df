"""System checks with stable IDs: report an invalid setting before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's own name
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction

from registry_admin.consul import ConsulConfig
from registry_admin.consul.addresses import is_loopback
from registry_admin.consul.checks import FOLLOWING_METHODS, CheckKind
from registry_admin.errors import ConfigurationError
from registry_admin.inventory.conf import conf
from registry_admin.printable import escape_unprintable

MOST_NAMED = 10


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """Returns E001 to E005 and E007 for invalid keys of REGISTRY, E006 for an invalid address of Consul."""
    problems: list[CheckMessage] = [Error(str(error), id=check_id) for check_id, error in conf.errors()]
    try:
        ConsulConfig.from_env()
    except ConfigurationError as error:
        problems.append(Error(str(error), id="registry.E006"))
    return problems


@register(Tags.security, deploy=True)
def check_deployment(**_kwargs: Any) -> list[CheckMessage]:
    """Returns W001 where the token would travel unencrypted to another machine."""
    try:
        consul = ConsulConfig.from_env()
    except ConfigurationError:
        return []
    if consul.has_token and consul.scheme == "http" and not is_loopback(consul.host):
        hint = "Use CONSUL_HTTP_ADDR=https://… with CONSUL_CACERT, or an agent on the same machine."
        return [Warning("The Consul token is sent without TLS to another machine.", hint=hint, id="registry.W001")]
    return []


@register(Tags.database)
def check_redirects(databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Returns W002, also at each `migrate`, where HTTP checks follow redirects, as those made earlier do."""
    names = {name for using in databases or () for name in following_services(using)}
    if not names:
        return []
    some = ", ".join(sorted(names)[:MOST_NAMED]) + (", …" if len(names) > MOST_NAMED else "")
    text = f"HTTP checks of {len(names)} services follow redirects: {escape_unprintable(some)}."
    hint = (
        "Whoever answers such a check can send Consul's agent to another address. Where it answers without a redirect, "
        "choose 'no redirects' (from Consul 1.11.5 on); the services in the admin have a filter of that name."
    )
    return [Warning(text, hint=hint, id="registry.W002")]


def following_services(using: str) -> list[str]:
    """Returns the names of services whose check follows redirects; none before the table has the column."""
    service = apps.get_model("inventory", "Service")  # this module is imported before there are models: by wsgi.py
    following = service.objects.using(using).filter(
        check_kind=CheckKind.HTTP, check_method__in=FOLLOWING_METHODS, check_disable_redirects=False
    )
    try:
        with transaction.atomic(using=using):
            return list(following.values_list("name", flat=True))
    except DatabaseError:
        return []


def require_secret_key() -> None:
    """Raises ImproperlyConfigured without a secret key: each process would make its own, and log users out."""
    if settings.SECRET_KEY_IS_TEMPORARY and not settings.DEBUG:
        raise ImproperlyConfigured(
            "DJANGO_SECRET_KEY is not set. Set it to a long random text "
            "(python -c 'import secrets; print(secrets.token_urlsafe(50))'), or DJANGO_DEBUG=1 for local work."
        )
