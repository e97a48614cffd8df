"""Asks pip-audit for known vulnerabilities, and distinguishes a clean answer from no answer, unlike its exit code.

Exit code 0: all packages were looked up, nothing was found. 1: findings, listed. 3: nothing could be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys

CLEAN, VULNERABLE, UNREACHABLE = 0, 1, 3


def main() -> int:
    """Runs pip-audit on the environment that this Python belongs to; prints what it found."""
    result = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--local", "--format=json", "--progress-spinner=off"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "pip-audit printed nothing")
        return UNREACHABLE
    return evaluate(packages)


def evaluate(packages: list[dict[str, object]]) -> int:
    """Prints the findings, and the packages that were not looked up. Returns the exit code."""
    vulnerable = False
    for package in packages:
        vulnerabilities = package.get("vulns") or []
        for vulnerability in vulnerabilities if isinstance(vulnerabilities, list) else []:
            vulnerable = True
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    if vulnerable:
        return VULNERABLE
    unknown = [str(package["name"]) for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        print("the service knows none of the packages, or can't be reached")
        return UNREACHABLE
    if unknown:
        print(f"not looked up: {', '.join(unknown)}")
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
