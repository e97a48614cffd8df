"""Each variable, what it means together with the others, and each mistake that can be made in it."""

from __future__ import annotations

import math

import pytest

from registry_admin.consul import ConsulConfig
from registry_admin.consul.transport import Transport
from registry_admin.errors import ConfigurationError, InvalidValueError


def from_env(**environ):
    return ConsulConfig.from_env(environ)


def mistake(**environ):
    with pytest.raises(ConfigurationError) as caught:
        from_env(**environ)
    return str(caught.value)


def test_without_variables_it_is_the_agent_on_this_machine():
    config = from_env()
    assert (config.url, config.token, config.verify, config.cert) == ("http://127.0.0.1:8500", None, True, None)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"CONSUL_HOST": "consul"}, "http://consul:8500"),
        ({"CONSUL_PORT": "8501"}, "http://127.0.0.1:8501"),
        ({"CONSUL_HOST": "::1", "CONSUL_PORT": "80"}, "http://[::1]:80"),
        ({"CONSUL_HOST": "", "CONSUL_PORT": ""}, "http://127.0.0.1:8500"),
        ({"CONSUL_HTTP_ADDR": "10.0.0.5:8501"}, "http://10.0.0.5:8501"),
        ({"CONSUL_HTTP_ADDR": "10.0.0.5"}, "http://10.0.0.5:8500"),
        ({"CONSUL_HTTP_ADDR": "http://10.0.0.5:8501"}, "http://10.0.0.5:8501"),
        ({"CONSUL_HTTP_ADDR": "http://10.0.0.5:8501/"}, "http://10.0.0.5:8501"),
        ({"CONSUL_HTTP_ADDR": "https://consul.example"}, "https://consul.example:8500"),
        ({"CONSUL_HTTP_ADDR": "[::1]:8501"}, "http://[::1]:8501"),
        ({"CONSUL_HTTP_ADDR": "consul:1", "CONSUL_HOST": "other", "CONSUL_PORT": "2"}, "http://consul:1"),
        ({"CONSUL_HTTP_ADDR": "consul", "CONSUL_PORT": "2"}, "http://consul:2"),
        ({"CONSUL_HTTP_ADDR": "consul:8501", "CONSUL_HTTP_SSL": "true"}, "https://consul:8501"),
        ({"CONSUL_HTTP_SSL": "1"}, "https://127.0.0.1:8500"),
        ({"CONSUL_HTTP_SSL": "false"}, "http://127.0.0.1:8500"),
    ],
)
def test_address_of_consul_is_read_from_environment(environ, url):
    assert from_env(**environ).url == url


@pytest.mark.parametrize(
    "value",
    [
        "host:0", "host:65536", "host:-1", "host:http", "host:" + "9" * 5000, "ftp://host",
        "unix:///run/consul.sock", "http://",
        ":8500", "http://host/path", "http://host?x=1", "host#x", "user:hunter2@host:8500",
        # pragma: allowlist nextline secret - only for tests
        "http://user:hunter2@host:99999",
        # pragma: allowlist nextline secret - only for tests
        "http://user:hunter2@[::1", "http://[::1", "a b:8500", "0.0.0.0:8500", "127.1:8500", "evil\\host:8500",
        "[::1%lo]:80",
        "\u2100:80",
    ],
)  # fmt: skip
def test_bad_address_is_a_mistake_in_its_variable(value):
    message = mistake(CONSUL_HTTP_ADDR=value)
    assert message.startswith("CONSUL_HTTP_ADDR: ")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "environ",
    [
        {"CONSUL_HOST": "http://consul"}, {"CONSUL_HOST": "consul:8500"}, {"CONSUL_HOST": "a b"},
        {"CONSUL_PORT": "http"},
        {"CONSUL_PORT": "0"}, {"CONSUL_PORT": "65536"}, {"CONSUL_PORT": "-1"}, {"CONSUL_PORT": " 8500"},
        {"CONSUL_PORT": "８５"},
        {"CONSUL_PORT": "9" * 5000}, {"CONSUL_PORT": "8500.0"},
    ],
)  # fmt: skip
def test_bad_host_or_port_is_a_mistake_in_its_variable(environ):
    assert mistake(**environ).startswith("CONSUL_HOST or CONSUL_PORT: ")


@pytest.mark.parametrize("name", ["CONSUL_HTTP_SSL", "CONSUL_HTTP_SSL_VERIFY"])
@pytest.mark.parametrize("value", ["maybe", "2", "tru", "null"])
def test_boolean_with_other_text_is_refused(name, value):
    assert mistake(**{name: value}).startswith(f"{name}: ")


# -- token ---------------------------------------------------------------------------------------------------


def test_token_is_the_variables_or_its_files(tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert from_env(CONSUL_HTTP_TOKEN="from-env").token == "from-env"
    assert from_env(CONSUL_HTTP_TOKEN="").token is None
    config = from_env(CONSUL_HTTP_TOKEN="from-env", CONSUL_HTTP_TOKEN_FILE=str(file))  # the file wins, as in Consul
    assert (config.token, config.token_file, config.has_token) == (None, str(file), True)
    assert Transport(config).token == "from-file"


def test_empty_token_file_is_no_token(tmp_path):
    (tmp_path / "token").write_text("\n")
    assert Transport(from_env(CONSUL_HTTP_TOKEN_FILE=str(tmp_path / "token"))).token is None


def test_token_file_that_can_not_be_read_is_a_mistake(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        assert mistake(CONSUL_HTTP_TOKEN_FILE=str(path)).startswith("CONSUL_HTTP_TOKEN_FILE: ")


@pytest.mark.parametrize("token", ["hunter2 x", "hunter2\r\nX: y", "hunter2é", "hunter2\n"])
def test_bad_token_is_a_mistake_and_never_shown(token, tmp_path):
    assert "CONSUL_HTTP_TOKEN" in mistake(CONSUL_HTTP_TOKEN=token)
    assert "hunter2" not in mistake(CONSUL_HTTP_TOKEN=token)
    with pytest.raises(InvalidValueError) as caught:
        ConsulConfig(token=token)
    assert "hunter2" not in f"{caught.value!r} {vars(caught.value)}"


def test_token_is_not_part_of_what_is_printed():
    assert "hunter2" not in repr(ConsulConfig(token="hunter2"))


# -- TLS -----------------------------------------------------------------------------------------------------


def test_tls_files_are_taken_from_their_variables(tmp_path):
    paths = {name: str(tmp_path / name) for name in ("CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_CLIENT_KEY")}
    for name in paths:
        (tmp_path / name).touch()
    config = from_env(**paths)
    assert config.verify == paths["CONSUL_CACERT"]
    assert config.cert == (paths["CONSUL_CLIENT_CERT"], paths["CONSUL_CLIENT_KEY"])
    del paths["CONSUL_CLIENT_KEY"]
    assert from_env(**paths).cert == paths["CONSUL_CLIENT_CERT"]
    assert from_env(**paths, CONSUL_HTTP_SSL_VERIFY="false").verify is False


@pytest.mark.parametrize("name", ["CONSUL_CACERT", "CONSUL_CLIENT_CERT"])
def test_tls_file_that_is_not_there_is_a_mistake(name, tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        assert mistake(**{name: str(path)}).startswith(f"{name}: ")


def test_client_key_needs_its_certificate(tmp_path):
    (tmp_path / "key").touch()
    assert mistake(CONSUL_CLIENT_KEY=str(tmp_path / "key")).startswith("CONSUL_CLIENT_KEY: ")
    assert mistake(CONSUL_CLIENT_CERT=str(tmp_path / "key"), CONSUL_CLIENT_KEY="none").startswith("CONSUL_CLIENT_KEY: ")


# -- made by hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"host": "evil@host"}, {"host": ""}, {"port": "8500"}, {"port": True}, {"scheme": "ftp"}, {"scheme": None},
        {"connect_timeout": 0}, {"connect_timeout": -1}, {"read_timeout": math.nan}, {"read_timeout": math.inf},
        {"read_timeout": None}, {"read_timeout": "5"}, {"token": b"x"}, {"token": 5},
    ],
)  # fmt: skip
def test_bad_value_is_refused(options):
    with pytest.raises(InvalidValueError) as caught:
        ConsulConfig(**options)
    assert caught.value.field == next(iter(options))
