"""Files for outages of Consul: what is kept, and what isn't believed."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from registry_admin.consul import Health, ServiceInstance
from registry_admin.consul.types import CheckResult
from registry_admin.discovery.cache import VARIABLE, Cache

HERE = "http://127.0.0.1:8500"


def instance(**changes: Any) -> ServiceInstance:
    fields: dict[str, Any] = {
        "service": "api",
        "id": "api-1",
        "address": "10.0.0.1",
        "port": 8000,
        "tags": ("blue", "ü"),
        "meta": {"scheme": "https", "secret": "s3cret"},
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
def cache(folder: Path) -> Cache:
    return Cache(str(folder), consul=HERE)


def the_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_is_saved_is_loaded_with_its_age_by_another_process(cache, folder):
    cache.save("api", [instance(), instance(id="api-2", meta={}, health=Health.CRITICAL)])
    os.utime(the_file(folder), (0, the_file(folder).stat().st_mtime - 100))
    loaded, age_s = Cache(str(folder), consul=HERE).load("api")
    assert loaded == [
        instance(meta={"scheme": "https"}, checks=()),
        instance(id="api-2", meta={}, checks=(), health=Health.CRITICAL),
    ]
    assert loaded[0].url == "https://10.0.0.1:8000"
    assert 100 <= age_s < 200


def test_nobody_else_can_read_it_and_neither_outputs_nor_meta_are_in_it(cache, folder):
    cache.save("api", [instance()])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(the_file(folder).stat().st_mode) == 0o600
    assert not {"noise", "s3cret"} & set(json.dumps(json.loads(the_file(folder).read_text())).split('"'))


def test_what_only_the_checks_say_does_not_write_the_file_anew_but_confirms_it(cache, folder):
    cache.save("api", [instance()])
    before = the_file(folder).stat().st_ino
    os.utime(the_file(folder), (0, 0))
    cache.save("api", [instance(checks=())])
    assert (the_file(folder).stat().st_ino, the_file(folder).stat().st_mtime > 0) == (before, True)
    cache.save("api", [instance(weight=8)])
    assert the_file(folder).stat().st_ino != before


def test_a_confirmed_file_is_young_again(cache, folder):
    cache.save("api", [instance()])
    os.utime(the_file(folder), (0, 0))
    cache.confirm("api")
    assert cache.load("api")[1] < 1000


def test_a_clock_that_jumped_makes_no_negative_age(cache, folder):
    cache.save("api", [instance()])
    os.utime(the_file(folder), (0, 2**33))
    assert cache.load("api")[1] == 0


def test_a_service_that_is_gone_has_no_file_and_one_that_never_was_gets_none(cache, folder):
    cache.save("nobody", [])
    assert not folder.exists()
    cache.save("api", [instance()])
    cache.save("api", [])
    assert list(folder.iterdir()) == []
    assert cache.load("api") is None
    cache.save("api", [instance()])
    assert cache.load("api") is not None


def test_each_service_has_its_own_file_that_cannot_lie_elsewhere(cache, folder):
    for name in ("a", "b", "../up", "a/b"):
        cache.save(name, [instance(service=name)])
    assert len(list(folder.iterdir())) == 4
    assert cache.load("../up")[0][0].service == "../up"


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = Cache.from_env({}, consul=HERE)
    cache.save("api", [instance()])
    cache.confirm("api")
    assert cache.load("api") is None
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_named_by_the_environment(folder):
    Cache.from_env({VARIABLE: str(folder)}, consul=HERE).save("api", [instance()])
    assert the_file(folder)


def test_a_file_of_another_consul_is_not_believed(cache, folder, caplog):
    Cache(str(folder), consul="http://elsewhere:8500").save("api", [instance()])
    assert cache.load("api") is None
    assert "another Consul" in caplog.text


def good() -> dict[str, Any]:
    one = {"id": "a", "address": "h", "port": 1, "tags": [], "meta": {}, "weight": 1, "health": "passing", "node": "n"}
    return {"form": 1, "consul": HERE, "service": "api", "instances": [one]}


def spoilt(**changes: Any) -> str:
    return json.dumps(good() | {"instances": [good()["instances"][0] | changes]})


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
        json.dumps(good() | {"form": 2}),
        json.dumps(good() | {"service": "web"}),
        json.dumps(good() | {"instances": "text"}),
        json.dumps(good() | {"instances": [None]}),
        json.dumps(good() | {"instances": {"id": 1}}),
        json.dumps(good())[:-20],
        spoilt(id=7),
        spoilt(address=None),
        spoilt(port="80"),
        spoilt(port=True),
        spoilt(tags="blue"),
        spoilt(meta=[]),
        spoilt(weight=0),
        spoilt(weight=1e9),
        spoilt(health="splendid"),
        spoilt(node=[]),
        "\0" * 1000,
        "\ufeff{}",
    ],
)
def test_what_is_no_file_of_ours_is_not_believed_and_said_in_one_line(cache, folder, caplog, text):
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(text)
    (folder / "api.json").chmod(0o600)
    for _ in range(3):
        assert cache.load("api") is None
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]


def test_the_same_file_unspoilt_is_believed(cache, folder):
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(json.dumps(good()))
    assert [one.id for one in cache.load("api")[0]] == ["a"]


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_is_not_believed(cache, folder, caplog, mode):
    cache.save("api", [instance()])
    the_file(folder).chmod(mode)
    assert cache.load("api") is None
    assert "somebody else" in caplog.text


def test_a_pipe_a_link_or_a_folder_in_its_place_is_neither_waited_for_nor_followed(cache, folder, tmp_path):
    folder.mkdir(parents=True)
    path, elsewhere = folder / "api.json", tmp_path / "elsewhere.json"
    os.mkfifo(path)
    assert cache.load("api") is None
    path.unlink()
    elsewhere.write_text(json.dumps(good()))
    path.symlink_to(elsewhere)
    assert cache.load("api") is None
    path.unlink()
    path.mkdir()
    assert cache.load("api") is None


def test_a_folder_that_cannot_be_written_is_said_once_and_fails_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = Cache(str(tmp_path / "file" / "cache"), consul=HERE)
    with caplog.at_level(logging.WARNING):
        for weight in range(1, 4):
            cache.save("api", [instance(weight=weight)])
            cache.confirm("api")
            assert cache.load("api") is None
    assert len(caplog.messages) == 1


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(cache, folder, monkeypatch):
    cache.save("api", [instance()])
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.save("api", [instance(weight=8)])
    assert [path.name for path in folder.iterdir()] == ["api.json"]
    assert cache.load("api")[0][0].weight == 7
    monkeypatch.undo()
    cache.save("api", [instance(weight=8)])
    assert cache.load("api")[0][0].weight == 8
