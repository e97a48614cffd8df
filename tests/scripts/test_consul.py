"""Tests of scripts/consul: the choice of the binary, and error messages of a single sentence."""

from __future__ import annotations

import hashlib
import os
import runpy
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "consul"


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CONSUL_BIN"}
    return subprocess.run(
        [SCRIPT, *arguments], env=environment | env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Executable `consul` that prints its arguments."""
    return make_executable(tmp_path / "bin" / "consul", 'echo "called with: $*"')


def make_executable(path: Path, line: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def first_on_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_consul_on_path_is_run_with_all_arguments(fake: Path) -> None:
    done = run("catalog", "services", "--path", PATH=first_on_path(fake.parent))
    assert (done.returncode, done.stdout, done.stderr) == (0, "called with: catalog services --path\n", "")


def test_exit_code_is_that_of_consul(tmp_path: Path) -> None:
    failing = make_executable(tmp_path / "bin" / "consul", "exit 7")
    assert run("members", CONSUL_BIN=str(failing)).returncode == 7


def test_consul_bin_wins_over_path(fake: Path, tmp_path: Path) -> None:
    chosen = make_executable(tmp_path / "other" / "my-consul", "echo mine")
    done = run("--path", PATH=first_on_path(fake.parent), CONSUL_BIN=str(chosen))
    assert done.stdout.strip() == str(chosen)


def test_script_on_path_is_not_taken_for_consul(fake: Path) -> None:
    path = os.pathsep.join([str(SCRIPT.parent), str(fake.parent), os.environ["PATH"]])
    assert run("--path", PATH=path).stdout.strip() != str(SCRIPT)


@pytest.mark.parametrize("named", ["/no/such/file", "no-such-command", "/"])
def test_wrong_consul_bin_is_named(named: str, fake: Path) -> None:
    done = run("version", CONSUL_BIN=named, PATH=first_on_path(fake.parent))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"CONSUL_BIN is {named!r}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    archive = tmp_path / "consul.zip"
    archive.write_bytes(b"what HashiCorp has released")
    expected = hashlib.sha256(archive.read_bytes()).hexdigest()
    script["check_archive"](archive, expected)
    archive.write_bytes(b"what somebody has put in its place")
    with pytest.raises(script["UnavailableError"], match=r"consul\.zip isn't the release that this script knows"):
        script["check_archive"](archive, expected)


def test_every_supported_machine_has_a_checksum() -> None:
    script = runpy.run_path(str(SCRIPT))
    assert set(script["SHA256"]) == {
        f"{system}_{name}" for system in ("linux", "darwin") for name in ("amd64", "arm64")
    }
    assert all(len(bytes.fromhex(digest)) == 32 for digest in script["SHA256"].values())


def test_machine_without_consul_gets_an_error_with_the_next_step(tmp_path: Path) -> None:
    copied = tmp_path / "project" / "scripts" / "consul"  # a place without a cache
    copied.parent.mkdir(parents=True)
    copied.write_bytes(SCRIPT.read_bytes())
    python = tmp_path / "bin"
    python.mkdir()
    (python / "python3").symlink_to(os.path.realpath("/proc/self/exe"))
    no_network = {"PATH": str(python), "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [python / "python3", copied, "--path"], env=no_network, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "releases.hashicorp.com has no Consul" in done.stderr
    assert "set CONSUL_BIN to a Consul binary" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "project" / ".cache").iterdir())
