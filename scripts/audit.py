"""Asks pip-audit for known vulnerabilities, and tells a clean answer from none at all: pip-audit's exit code doesn't.

Exit code 0: all packages were looked up, nothing was found. 1: findings, listed. 3: nothing could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys

CLEAN, FOUND, UNREACHABLE = 0, 1, 3


def main() -> int:
    """Runs pip-audit on the environment that this Python belongs to; prints what it found."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--local", "--format=json", "--progress-spinner=off"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(asked.stderr.strip().splitlines()[-1] if asked.stderr.strip() else "pip-audit said nothing")
        return UNREACHABLE
    return judge(packages)


def judge(packages: list[dict[str, object]]) -> int:
    """Prints the findings, and what was not looked up; returns the exit code."""
    found = False
    for package in packages:
        vulnerabilities = package.get("vulns") or []
        for vulnerability in vulnerabilities if isinstance(vulnerabilities, list) else []:
            found = True
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {fixed}")
    if found:
        return FOUND
    unknown = [str(package["name"]) for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print("the service knows none of the packages, or can't be reached")
        return UNREACHABLE
    if unknown:
        print(f"not looked up: {', '.join(unknown)}")
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
