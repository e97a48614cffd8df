"""scripts/consul: which Consul it takes, and that it says in one sentence what is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "consul"


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "CONSUL_BIN"}
    return subprocess.run([SCRIPT, *arguments], env=kept | env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A `consul` that only says how it was called."""
    return make_executable(tmp_path / "bin" / "consul", 'echo "called with: $*"')


def make_executable(path: Path, line: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def first_on_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_becomes_the_consul_on_path_with_all_arguments(fake: Path) -> None:
    done = run("catalog", "services", "--path", PATH=first_on_path(fake.parent))
    assert (done.returncode, done.stdout, done.stderr) == (0, "called with: catalog services --path\n", "")


def test_the_exit_code_is_consuls(tmp_path: Path) -> None:
    failing = make_executable(tmp_path / "bin" / "consul", "exit 7")
    assert run("members", CONSUL_BIN=str(failing)).returncode == 7


def test_consul_bin_wins_over_path(fake: Path, tmp_path: Path) -> None:
    chosen = make_executable(tmp_path / "other" / "my-consul", "echo mine")
    done = run("--path", PATH=first_on_path(fake.parent), CONSUL_BIN=str(chosen))
    assert done.stdout.strip() == str(chosen)


def test_it_does_not_take_itself_for_consul(fake: Path) -> None:
    path = os.pathsep.join([str(SCRIPT.parent), str(fake.parent), os.environ["PATH"]])
    assert run("--path", PATH=path).stdout.strip() != str(SCRIPT)


@pytest.mark.parametrize("named", ["/no/such/file", "no-such-command", "/"])
def test_a_wrong_consul_bin_is_named(named: str, fake: Path) -> None:
    done = run("version", CONSUL_BIN=named, PATH=first_on_path(fake.parent))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"CONSUL_BIN is {named!r}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_where_none_can_be_had_it_says_what_to_do(tmp_path: Path) -> None:
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
    assert "releases.hashicorp.com gave no Consul" in done.stderr
    assert "set CONSUL_BIN to a Consul binary" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "project" / ".cache").iterdir())
