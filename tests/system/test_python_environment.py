"""The virtual environment that scripts/run and scripts/test share: when it is made, kept and made anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import audit, python_environment

SCRIPT = Path(python_environment.__file__)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that needs nothing, with its environment made."""
    root = tmp_path_factory.mktemp("project")
    (root / "scripts").mkdir()
    shutil.copy(SCRIPT, root / "scripts")
    (root / "requirements-local.txt").write_text("# nothing\n")
    (root / "requirements-dev.txt").write_text("-r requirements-local.txt\n")
    ensure(root, "dev")
    return root


def ensure(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Under the Python that environments are made from here: ours may itself live in one."""
    command = [os.path.realpath(sys.executable), root / "scripts" / SCRIPT.name, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_it_is_left_alone_where_nothing_has_changed(project: Path) -> None:
    done = ensure(project, "dev")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(project / ".venv/bin/python"), "")


def test_what_another_set_has_installed_already_is_not_installed_again(project: Path) -> None:
    assert ensure(project, "local").stderr == ""


def test_changed_requirements_are_installed_and_a_failure_is_not_taken_for_done(project: Path) -> None:
    included = project / "requirements-local.txt"
    before = included.read_text()
    included.write_text("./no-such-folder\n")
    try:
        for _ in range(2):
            failed = ensure(project, "dev")
            assert failed.returncode == 1
            assert failed.stdout == ""
            assert "pip could not install requirements-dev.txt" in failed.stderr
    finally:
        included.write_text(before)


def test_it_is_made_anew_after_a_move(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved, symlinks=True)
    done = ensure(moved, "local")
    assert "Making .venv anew" in done.stderr
    assert done.stdout.strip() == str(moved / ".venv/bin/python")
    assert ensure(moved, "local").stderr == ""


def test_what_is_no_environment_is_not_removed(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    shutil.copytree(project, root, ignore=shutil.ignore_patterns(".venv*"))
    (root / ".venv").mkdir()
    (root / ".venv/thesis.txt").write_text("mine")
    done = ensure(root, "local")
    assert done.returncode == 1
    assert "is no virtual environment" in done.stderr
    assert (root / ".venv/thesis.txt").read_text() == "mine"


def test_a_python_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match=r"Python 3\.11 to 3\.13 is needed; `python3` is 3\.9"):
        python_environment.use_supported_python()


def test_an_audit_without_an_answer_is_no_clean_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.judge([{"name": "a", "skip_reason": "not found"}]) == audit.UNREACHABLE
    assert audit.judge([{"name": "a", "version": "1", "vulns": []}]) == audit.CLEAN
    bad = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    assert audit.judge([{"name": "b", "skip_reason": "not found"}, bad]) == audit.FOUND
    assert "a 1: CVE-1, mended in 2" in capsys.readouterr().out
