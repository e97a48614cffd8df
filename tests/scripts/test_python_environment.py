"""Tests of the virtual environment that scripts/run and scripts/test share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import audit, python_environment

pytestmark = pytest.mark.system

SCRIPT = Path(python_environment.__file__)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Project without dependencies, with its environment."""
    root = tmp_path_factory.mktemp("project")
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    (root / "requirements-local.txt").write_text("# nothing\n")
    (root / "requirements-dev.txt").write_text("# nothing\n")
    ensure(root, "dev")
    return root


def ensure(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Runs the script under the base Python, because the current Python may be of a virtual environment."""
    command = [os.path.realpath(sys.executable), root / "scripts" / SCRIPT.name, name]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in result.stderr
    return result


def test_environment_without_changes_is_left_alone(project: Path) -> None:
    result = ensure(project, "dev")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, str(project / ".venv/bin/python"), "")


def test_requirements_that_another_file_has_installed_are_not_installed_again(project: Path) -> None:
    result = ensure(project, "local")
    assert (result.stdout.strip(), result.stderr) == (str(project / ".venv/bin/python"), "")


@pytest.mark.parametrize("requirement", ["./no-such-folder", "pip==1.0  # without a hash"])
def test_changed_requirements_are_installed_and_a_failure_is_not_recorded(project: Path, requirement: str) -> None:
    requirements = project / "requirements-dev.txt"
    before = requirements.read_text()
    requirements.write_text(f"{requirement}\n")
    try:
        for _ in range(2):
            failed = ensure(project, "dev")
            assert failed.returncode == 1
            assert failed.stdout == ""
            assert "pip could not install requirements-dev.txt" in failed.stderr
    finally:
        requirements.write_text(before)


def test_environment_is_recreated_after_a_move(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved, symlinks=True)
    result = ensure(moved, "local")
    assert "Making .venv anew" in result.stderr
    assert result.stdout.strip() == str(moved / ".venv/bin/python")
    assert ensure(moved, "local").stderr == ""


def test_folder_that_is_no_environment_is_not_removed(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    shutil.copytree(project, root, ignore=shutil.ignore_patterns(".venv*"))
    (root / ".venv").mkdir()
    (root / ".venv/thesis.txt").write_text("mine")
    result = ensure(root, "local")
    assert result.returncode == 1
    assert "is no virtual environment" in result.stderr
    assert (root / ".venv/thesis.txt").read_text() == "mine"


def test_python_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match=r"Python 3\.11 to 3\.14 is needed; `python3` is 3\.9"):
        python_environment.use_supported_python()


def test_python_newer_than_tested_gets_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 15, 0, "final", 0))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    python_environment.use_supported_python()
    assert "Warning: this is tested with Python 3.11 to 3.14; `python3` is 3.15." in capsys.readouterr().err


def test_supported_pythons_are_those_of_the_package() -> None:
    project = tomllib.loads((SCRIPT.parent.parent / "pyproject.toml").read_text())["project"]
    oldest, newest = (f"{major}.{minor}" for major, minor in (python_environment.OLDEST, python_environment.NEWEST))
    assert project["requires-python"] == f">={oldest}"
    versions = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    assert (versions[0], versions[-1]) == (oldest, newest)


def test_locked_requirements_are_read_without_hashes_and_comments() -> None:
    root = SCRIPT.parent.parent
    local, dev = (python_environment.locked(root / f"requirements-{name}.txt") for name in ("local", "dev"))
    assert "requests==2.34.2" in local
    assert local < dev, "what scripts/run needs is part of what scripts/test needs, in the same versions"


def test_audit_without_an_answer_is_not_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.evaluate([{"name": "a", "skip_reason": "not found"}]) == audit.UNREACHABLE
    assert audit.evaluate([{"name": "a", "version": "1", "vulns": []}]) == audit.CLEAN
    bad = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    assert audit.evaluate([{"name": "b", "skip_reason": "not found"}, bad]) == audit.VULNERABLE
    assert "a 1: CVE-1, fixed in 2" in capsys.readouterr().out
