"""Checks of scripts/check that look for faults of security: each finds one that is planted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts import audit, secret_scan

ROOT = Path(__file__).parents[2]
KEY = "AKIA" + "QWERTYUIOP" + "ASDFGH"


def run(*command: str, code: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], check=False, cwd=ROOT, input=code, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import pickle\n\nvalue = pickle.loads(b'')\n", "S301"),
        ("import subprocess\n\nsubprocess.run('ls', shell=True)\n", "S602"),
        ("import yaml\n\nvalue = yaml.load('', Loader=yaml.Loader)\n", "S506"),
        ("from django.utils.safestring import mark_safe\n\nvalue = mark_safe(input())\n", "S308"),
    ],
)
def test_ruff_finds_a_planted_fault(code, rule):
    result = run("ruff", "check", "--stdin-filename", "registry_admin/planted.py", "-", code=code)
    assert (result.returncode, rule in result.stdout) == (1, True), result.stdout


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import pickle\n\nvalue = pickle.loads(b'')\n", "B301"),
        ("name = 'a'  # \u202e reversed\n", "B613"),
        ("from torch import load\n\nimport torch\n\ntorch.load('model')\n", "B614"),
    ],
)
def test_bandit_finds_a_planted_fault_with_our_configuration(code, rule, tmp_path):
    (tmp_path / "planted.py").write_text(code)
    result = run("bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", str(tmp_path))
    assert (result.returncode, rule in result.stdout) == (1, True), result.stdout


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"key = '{KEY}'", "AWS Access Key"),
        ("password = '" + "Tr0ub4dor&3xyz'", "Secret Keyword"),
        ("url = 'postgres://ada:" + "hunter2@db.internal/x'", "Basic Auth Credentials"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "Private Key"),
        (f"key = '{KEY}'  # pragma: allow" + "list secret", "an exemption without a reason"),
    ],
)
def test_secret_scan_finds_a_planted_secret_and_doesn_t_print_it(line, kind, tmp_path, capsys):
    planted = tmp_path / "planted.py"
    planted.write_text(f"{line}\n")
    assert secret_scan.main([str(planted)]) == secret_scan.FOUND
    output = capsys.readouterr().out
    assert f"planted.py:1: {kind}" in output
    assert KEY not in output


def test_secret_scan_passes_what_says_why_it_is_no_secret(tmp_path, capsys):
    planted = tmp_path / "planted.py"
    planted.write_text(f"key = '{KEY}'  # pragma: allow" + "list secret - an example of AWS\n")
    assert secret_scan.main([str(planted)]) == secret_scan.CLEAN
    assert capsys.readouterr().out == ""


def test_secret_scan_exempts_only_files_that_are_there():
    for exempt in secret_scan.EXEMPT:
        assert next(ROOT.glob(exempt), None), exempt


def test_audit_finds_a_vulnerable_package(capsys):
    vulnerability = {"id": "PYSEC-1", "fix_versions": ["2"]}
    packages = [{"name": "a", "version": "1", "vulns": [vulnerability]}, {"name": "b", "version": "1", "vulns": []}]
    assert audit.evaluate(packages) == audit.VULNERABLE
    assert "a 1: PYSEC-1, fixed in 2" in capsys.readouterr().out
    assert audit.evaluate([{"name": "b", "version": "1", "vulns": []}]) == audit.CLEAN
    assert audit.evaluate([{"name": "b", "skip_reason": "unreachable"}]) == audit.UNREACHABLE
