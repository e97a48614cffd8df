"""Looks for secrets in the files of the repository: scripts/secret_scan.py [FILE...].

Exit code 0: none. 1: findings, listed without their values. 3: this isn't a checkout of git.
"""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

from detect_secrets.core.secrets_collection import SecretsCollection
from detect_secrets.settings import default_settings

ROOT = Path(__file__).resolve().parent.parent
CLEAN, FOUND, NO_CHECKOUT = 0, 1, 3
# Whole files, where no line can hold a comment, or each would. Other lines say why they are no secret:
# `pragma: allowlist secret - REASON`, or `allowlist nextline secret` on a line of its own.
EXEMPT = {
    "requirements*.txt": "digests of packages, which pip compares",
    "*/requirements*.txt": "the same",
    "registry_admin/inventory/static/inventory/vendor/*.min.js": "published code of others",
    "tests/browser/vendor/axe.min.js": "published code of others",
    "tests/parts/certificates/localhost.pem": "the key of a certificate that only tests trust",
}
_PRAGMA = re.compile(r"pragma: ?allowlist(?: nextline)? secret(?! - \S)")


def main(arguments: list[str]) -> int:
    """Scans these files, or all that git knows; prints what it found."""
    files = [str(Path(name).resolve()) for name in arguments] or _tracked()
    if files is None:
        print("this is no checkout of git")
        return NO_CHECKOUT
    with default_settings():
        secrets = SecretsCollection(root=str(ROOT))
        secrets.scan_files(*files)
    findings = [(name, secret.line_number, secret.type) for name, secret in secrets]
    for name, line, kind in sorted(findings + _without_reason(files)):
        print(f"{name}:{line}: {kind}")
    return FOUND if findings or _without_reason(files) else CLEAN


def _tracked() -> list[str] | None:
    git = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        return None
    return [name for name in names if (ROOT / name).is_file() and not any(fnmatch(name, exempt) for exempt in EXEMPT)]


def _without_reason(files: list[str]) -> list[tuple[str, int, str]]:
    """Returns exemptions that don't say why; this file's own pattern is none."""
    return [
        (name, number, "an exemption without a reason: pragma: allowlist secret - REASON")
        for name in files
        if (ROOT / name).resolve() != Path(__file__).resolve()
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1)
        if _PRAGMA.search(line)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
