"""System checks, with stable IDs: a wrong setting is named before anything runs."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's own name
from django.core.exceptions import ImproperlyConfigured

from registry_admin.consul import ConsulConfig
from registry_admin.errors import ConfigurationError
from registry_admin.inventory.conf import conf

_SETTINGS = {
    "registry.E001": "owner",
    "registry.E002": "pass_interval_s",
    "registry.E003": "stale_after_s",
    "registry.E004": "consul_timeout_s",
    "registry.E005": "sync_on_save",
    "registry.E007": "history_kept_s",
}


@register()
def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """E001 to E005 and E007: a value in REGISTRY; E006: the environment's address of Consul."""
    problems: list[CheckMessage] = []
    for code, name in _SETTINGS.items():
        try:
            getattr(conf, name)
        except ConfigurationError as error:
            problems.append(Error(str(error), id=code))
    try:
        ConsulConfig.from_env()
    except ConfigurationError as error:
        problems.append(Error(str(error), id="registry.E006"))
    return problems


@register(Tags.security, deploy=True)
def check_deployment(**_kwargs: Any) -> list[CheckMessage]:
    """W001: the token would travel unencrypted to another machine."""
    try:
        consul = ConsulConfig.from_env()
    except ConfigurationError:
        return []
    is_local = consul.host in ("localhost", "::1") or consul.host.startswith("127.")
    if consul.token and consul.scheme == "http" and not is_local:
        hint = "Use CONSUL_HTTP_ADDR=https://… with CONSUL_CACERT, or an agent on the same machine."
        return [Warning("The Consul token is sent without TLS to another machine.", hint=hint, id="registry.W001")]
    return []


def require_secret_key() -> None:
    """Refuses to serve with a key that each process makes up for itself: nobody would stay logged in."""
    if settings.SECRET_KEY_IS_TEMPORARY and not settings.DEBUG:
        raise ImproperlyConfigured(
            "DJANGO_SECRET_KEY is not set. Set it to a long random text "
            "(python -c 'import secrets; print(secrets.token_urlsafe(50))'), or DJANGO_DEBUG=1 for local work."
        )
