"""Instance lists on disk: contents, permissions, and files that are not trusted."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from registry_admin.consul import Health, ServiceInstance
from registry_admin.consul.health import CheckResult
from registry_admin.discovery.instances.disk_cache import VARIABLE, DiskCache

CONSUL_URL = "http://127.0.0.1:8500"


def instance(**changes: Any) -> ServiceInstance:
    fields: dict[str, Any] = {
        "service": "api",
        "id": "api-1",
        "address": "10.0.0.1",
        "port": 8000,
        "tags": ("blue", "ü"),
        # pragma: allowlist nextline secret - only for tests
        "meta": {"scheme": "https", "base_path": "/shop", "secret": "s3cret"},
        "weight": 7,
        "health": Health.PASSING,
        "checks": (CheckResult(id="c", name="c", status="passing", output="noise"),),
        "node": "n1",
    }
    return ServiceInstance(**fields | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def cache(folder: Path) -> DiskCache:
    return DiskCache(str(folder), consul_url=CONSUL_URL)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_load_in_another_process_returns_the_saved_list_and_its_age(cache, folder):
    cache.save("api", [instance(), instance(id="api-2", meta={}, health=Health.CRITICAL)])
    os.utime(only_file(folder), (0, only_file(folder).stat().st_mtime - 100))
    loaded, age_s = DiskCache(str(folder), consul_url=CONSUL_URL).load("api")
    assert loaded == [
        instance(meta={"scheme": "https", "base_path": "/shop"}, checks=()),
        instance(id="api-2", meta={}, checks=(), health=Health.CRITICAL),
    ]
    assert loaded[0].url == "https://10.0.0.1:8000/shop"
    assert 100 <= age_s < 200


def test_save_file_is_private_and_holds_neither_outputs_nor_meta(cache, folder):
    cache.save("api", [instance()])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(folder).stat().st_mode) == 0o600
    text = only_file(folder).read_text()
    assert "10.0.0.1" in text
    assert "noise" not in text
    assert "s3cret" not in text


def test_save_change_of_check_results_only_touches_the_file(cache, folder):
    cache.save("api", [instance()])
    inode = only_file(folder).stat().st_ino
    os.utime(only_file(folder), (0, 0))
    cache.save("api", [instance(checks=())])
    assert (only_file(folder).stat().st_ino, only_file(folder).stat().st_mtime > 0) == (inode, True)
    cache.save("api", [instance(weight=8)])
    assert only_file(folder).stat().st_ino != inode


def test_touch_resets_the_age_of_the_file(cache, folder):
    cache.save("api", [instance()])
    os.utime(only_file(folder), (0, 0))
    cache.touch("api")
    assert cache.load("api").age_s < 1000


def test_load_file_from_the_future_has_age_zero(cache, folder):
    cache.save("api", [instance()])
    os.utime(only_file(folder), (0, 2**33))
    assert cache.load("api").age_s == 0


def test_save_empty_list_removes_the_file(cache, folder):
    cache.save("missing", [])
    assert not folder.exists()
    cache.save("api", [instance()])
    cache.save("api", [])
    assert list(folder.iterdir()) == []
    assert cache.load("api") is None
    cache.save("api", [instance()])
    assert cache.load("api") is not None


def test_save_any_service_name_makes_a_file_inside_the_folder(cache, folder):
    for name in ("a", "b", "../up", "a/b"):
        cache.save(name, [instance(service=name)])
    assert len(list(folder.iterdir())) == 4
    assert cache.load("../up").instances[0].service == "../up"


def test_disk_cache_without_folder_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = DiskCache.from_env({}, consul_url=CONSUL_URL)
    cache.save("api", [instance()])
    cache.touch("api")
    assert cache.load("api") is None
    assert list(tmp_path.iterdir()) == []


def test_from_env_uses_the_folder_of_the_variable(folder):
    DiskCache.from_env({VARIABLE: str(folder)}, consul_url=CONSUL_URL).save("api", [instance()])
    assert only_file(folder)


def test_load_file_of_another_consul_is_ignored(cache, folder, caplog):
    DiskCache(str(folder), consul_url="http://elsewhere:8500").save("api", [instance()])
    assert cache.load("api") is None
    assert "another Consul" in caplog.text


def well_formed() -> dict[str, Any]:
    fields = {
        "id": "a",
        "address": "h",
        "port": 1,
        "tags": [],
        "meta": {},
        "weight": 1,
        "health": "passing",
        "node": "n",
    }
    return {"form": 1, "consul": CONSUL_URL, "service": "api", "instances": [fields]}


def malformed(**changes: Any) -> str:
    return json.dumps(well_formed() | {"instances": [well_formed()["instances"][0] | changes]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        "{}",
        "[" * 100_000,
        '{"form": ' + "9" * 5000 + "}",
        json.dumps(well_formed() | {"form": 2}),
        json.dumps(well_formed() | {"service": "web"}),
        json.dumps(well_formed() | {"instances": "text"}),
        json.dumps(well_formed() | {"instances": [None]}),
        json.dumps(well_formed() | {"instances": {"id": 1}}),
        json.dumps(well_formed())[:-20],
        malformed(id=7),
        malformed(address=None),
        malformed(port="80"),
        malformed(port=True),
        malformed(tags="blue"),
        malformed(meta=[]),
        malformed(weight=0),
        malformed(weight=1e9),
        malformed(health="splendid"),
        malformed(node=[]),
        "\0" * 1000,
        "\ufeff{}",
    ],
)
def test_load_malformed_file_is_ignored_with_one_warning(cache, folder, caplog, text):
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(text)
    (folder / "api.json").chmod(0o600)
    for _ in range(3):
        assert cache.load("api") is None
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]


def test_load_well_formed_file_returns_its_instances(cache, folder):
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(json.dumps(well_formed()))
    assert [instance.id for instance in cache.load("api").instances] == ["a"]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_load_file_writable_by_others_is_ignored(cache, folder, caplog, mode):
    cache.save("api", [instance()])
    only_file(folder).chmod(mode)
    assert cache.load("api") is None
    assert "another user" in caplog.text


def test_load_pipe_link_or_folder_in_place_of_the_file_is_ignored(cache, folder, tmp_path):
    folder.mkdir(parents=True)
    path, elsewhere = folder / "api.json", tmp_path / "elsewhere.json"
    os.mkfifo(path)
    assert cache.load("api") is None
    path.unlink()
    elsewhere.write_text(json.dumps(well_formed()))
    path.symlink_to(elsewhere)
    assert cache.load("api") is None
    path.unlink()
    path.mkdir()
    assert cache.load("api") is None


def test_disk_cache_unwritable_folder_is_one_warning_and_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = DiskCache(str(tmp_path / "file" / "cache"), consul_url=CONSUL_URL)
    with caplog.at_level(logging.WARNING):
        for weight in range(1, 4):
            cache.save("api", [instance(weight=weight)])
            cache.touch("api")
            assert cache.load("api") is None
    assert len(caplog.messages) == 1


def test_save_full_disk_keeps_the_old_file_and_leaves_no_other(cache, folder, monkeypatch):
    cache.save("api", [instance()])
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.save("api", [instance(weight=8)])
    assert [path.name for path in folder.iterdir()] == ["api.json"]
    assert cache.load("api").instances[0].weight == 7
    monkeypatch.undo()
    cache.save("api", [instance(weight=8)])
    assert cache.load("api").instances[0].weight == 8
