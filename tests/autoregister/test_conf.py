"""Settings of self-registration, by walking their declarations."""

from __future__ import annotations

import pytest

from registry_admin.autoregister.conf import AutoregisterSettings, conf
from registry_admin.autoregister.system_checks import check_settings
from registry_admin.discovery.registration.identity import IdentityOptions
from registry_admin.errors import ConfigurationError

INVALID = object()


@pytest.mark.parametrize("setting", AutoregisterSettings.declarations(), ids=lambda setting: setting.key)
def test_setting_missing_is_its_default_and_invalid_is_reported_by_its_system_check(settings, setting):
    settings.REGISTRY_AUTOREGISTER = {setting.key: None} if setting.default is None else {}
    assert setting.value(conf) == setting.default
    assert check_settings() == []
    settings.REGISTRY_AUTOREGISTER = {setting.key: INVALID}
    (message,) = check_settings()
    assert message.id == setting.check_id
    assert message.msg.startswith(f"REGISTRY_AUTOREGISTER['{setting.key}']: ")


def test_health_check_path_of_none_is_the_default(settings):
    settings.REGISTRY_AUTOREGISTER = {"HEALTH_CHECK_PATH": None}
    assert conf.health_check_path == "/health"


def test_identity_options_hold_every_setting_but_the_name(settings):
    settings.REGISTRY_AUTOREGISTER = {"NAME": "api", "PORT": 8000, "TAGS": ["b", "a"]}
    options = conf.identity_options
    assert conf.service_name == "api"
    assert (options["port"], options["tags"], options["health_check_path"]) == (8000, ("a", "b"), "/health")
    assert len(options) == len(conf.declarations()) - 1
    assert options.keys() <= IdentityOptions.__annotations__.keys()


@pytest.mark.parametrize("value", [["NAME"], {"NAMES": "api"}], ids=["no dict", "unknown key"])
def test_settings_of_another_shape_are_an_error_that_lists_the_keys(settings, value):
    settings.REGISTRY_AUTOREGISTER = value
    with pytest.raises(ConfigurationError, match="ADDRESS, HEALTH_CHECK_PATH, ID, META, NAME, PORT, TAGS"):
        _ = conf.service_name
