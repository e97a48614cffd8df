"""Django's settings, read from the environment; docs/reference/settings.md has the table.

Safe by default: without DJANGO_DEBUG=1 or DJANGO_HTTPS=0 the site is for production behind HTTPS.
"""

import hashlib
import secrets
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import NoBackoff
from redis.retry import Retry

from registry_admin.inventory.conf import RegistrySettings
from registry_admin.inventory.database_options import SQLITE_TIMEOUT_S, postgresql_options

env = environ.FileAwareEnv()  # with NAME_FILE set, NAME is read from that file: for passwords in containers
BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = env.bool("DJANGO_DEBUG", default=False)
HTTPS = env.bool("DJANGO_HTTPS", default=not DEBUG)

# Without a key, commands work with one for this process only; wsgi.py and asgi.py refuse to serve with it.
SECRET_KEY = env.str("DJANGO_SECRET_KEY", default="")
SECRET_KEY_IS_TEMPORARY = not SECRET_KEY
if SECRET_KEY_IS_TEMPORARY:
    SECRET_KEY = secrets.token_urlsafe(50)

_service_address = env.str("SERVICE_ADDRESS", default="")
ALLOWED_HOSTS = [
    *env.list("DJANGO_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"]),
    *([_service_address] if _service_address else []),  # the Host of Consul's health check
]
CSRF_TRUSTED_ORIGINS = env.list("DJANGO_CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "registry_admin.inventory",  # before the admin, whose base_site.html it replaces
    "registry_admin.access",
    "registry_admin.callgraph",
    "registry_admin.dashboard",
    "registry_admin.metrics",
    "registry_admin.api",
    "registry_admin.autoregister",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "simple_history",
]

MIDDLEWARE = [
    "registry_admin.access.middleware.RequestContextMiddleware",
    "registry_admin.access.middleware.BodyLimitMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "registry_admin.access.middleware.SessionUseMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "registry_admin.inventory.actor.ActorMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "registry_admin.api.middleware.ApiMiddleware",
]

ROOT_URLCONF = "registry_admin.urls"
WSGI_APPLICATION = "registry_admin.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# The settings of the inventory; registry_admin/inventory/conf.py declares them with their defaults and meanings.
REGISTRY = {
    setting.key: env.str(variable)
    for setting in RegistrySettings.declarations()
    if (variable := RegistrySettings.variable(setting)) in env.ENVIRON
}

# What is wrong with a URL is said without it: the parsers' errors quote the part of a password before a `/`.
_NO_URL = "{} is no URL. In a user and a password, write / as %2F, ? as %3F, # as %23, @ as %40 and : as %3A"
try:
    DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'registry_admin.sqlite3'}")}
except (ValueError, ImproperlyConfigured):
    raise ImproperlyConfigured(_NO_URL.format("DATABASE_URL")) from None
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Wait for another writer instead of failing, and let readers read meanwhile.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": SQLITE_TIMEOUT_S,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    # A server that is silently gone must not block a page or the watcher for 15 minutes, as TCP alone would.
    _timeouts = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "tcp_user_timeout": 20_000}
    _given = DATABASES["default"].get("OPTIONS", {})
    DATABASES["default"]["OPTIONS"] = (
        _timeouts | _given | postgresql_options(REGISTRY, given=str(_given.get("options", "")))
    )
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_redis_url = env.str("REDIS_URL", default="")
CACHES: dict[str, dict[str, object]] = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}
try:
    _redis_port = urlsplit(_redis_url).port
except ValueError:
    raise ImproperlyConfigured(_NO_URL.format("REDIS_URL")) from None
if _redis_url:
    _database = DATABASES["default"]
    _database_name = "/".join(str(_database.get(part, "")) for part in ("HOST", "PORT", "NAME"))
    CACHES["default"] = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": _redis_url,
        "KEY_PREFIX": f"registry-admin:{hashlib.sha256(_database_name.encode()).hexdigest()[:16]}",
        "OPTIONS": {
            # Django's default is pickle: anybody who can write to Redis could run code here.
            "serializer": "registry_admin.inventory.cache.JsonSerializer",
            # A page must not wait for a Redis that is away: it has the database.
            "socket_connect_timeout": 0.25,
            "socket_timeout": 0.25,
            "retry": Retry(NoBackoff(), 0),
        },
    }

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
] + [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
CSRF_FAILURE_VIEW = "registry_admin.access.views.csrf_failure"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "registry_admin.static_files.StaticFiles"
    },
}
WHITENOISE_USE_FINDERS = True  # pages have their styles and scripts without collectstatic too

CONTENT_SECURITY_POLICY = {  # nothing inline, nothing from another host
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440
MAX_BODY_BYTES = DATA_UPLOAD_MAX_MEMORY_SIZE + 100_000  # and what a browser sends around a form
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000  # each instance in a service's form has ten; Django's own limit is 1,000
SESSION_ENGINE = "registry_admin.access.sessions"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^ready$", r"^api/calls$"]  # requested within the network, by address
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
BEHIND_PROXY = env.bool("DJANGO_BEHIND_PROXY", default=False)
TRUSTED_PROXIES = [  # gunicorn's own variable, and default
    entry.strip() for entry in (env.str("FORWARDED_ALLOW_IPS", default="") or "127.0.0.1,::1").split(",")
]
try:
    _networks = [ip_network(entry) for entry in TRUSTED_PROXIES if entry != "*"]
except ValueError as _error:
    raise ImproperlyConfigured(
        f"FORWARDED_ALLOW_IPS: give addresses and networks of proxies, or *: {_error}"
    ) from _error
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

LOG_FORMAT = env.str("LOG_FORMAT", default="line")
if LOG_FORMAT not in ("line", "json"):
    raise ImproperlyConfigured(f"LOG_FORMAT: give 'line' or 'json', not {LOG_FORMAT!r}")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "registry_admin.logs.LineFormatter"},
        "json": {"()": "registry_admin.logs.JsonFormatter"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "registry_admin": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", default="INFO"), "propagate": False},
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "django.request": {"level": "ERROR"},  # the access log has what was refused, and the audit trail has who
        "django.security.csrf": {"level": "CRITICAL"},  # a line of the audit trail
    },
}

# Registry Admin registers itself like any other module.
REGISTRY_AUTOREGISTER = {
    "NAME": env.str("SERVICE_NAME", default="registry-admin"),
    "PORT": env.int("SERVICE_PORT", default=8080),
}

# Modules that send this token may report their calls (POST /api/calls); without a token no reports are accepted.
REGISTRY_REPORT_TOKEN = env.str("REGISTRY_REPORT_TOKEN", default="")

# Who sends this token may read /metrics; without a token there are no metrics.
REGISTRY_METRICS_TOKEN = env.str("REGISTRY_METRICS_TOKEN", default="")
