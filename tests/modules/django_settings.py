"""Settings of the Django module."""

ALLOWED_HOSTS = ["*"]
DEBUG = True
INSTALLED_APPS = ["registry_admin.autoregister"]
ROOT_URLCONF = "tests.modules.django_module"
# pragma: allowlist nextline secret - only for tests
SECRET_KEY = "only for a test"
USE_TZ = True
WSGI_APPLICATION = "tests.modules.django_servers.application"
