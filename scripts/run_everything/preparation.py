"""Preparation of a database: tables, a login, an inventory, static files. Skipped where nothing changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scripts.run_everything import parts
from scripts.run_everything.processes import Processes
from scripts.run_everything.settings import ROOT, Settings

ADMIN = "admin"
# pragma: allowlist nextline secret - the file's name
PASSWORD_FILE = "admin-password"  # noqa: S105 - the name of the file


def prepare(settings: Settings, processes: Processes) -> None:
    """Runs the commands that the database needs. Raises RunError where a command fails."""
    stamp = settings.postgres / "prepared"
    current = _fingerprint()
    before = json.loads(stamp.read_text()) if stamp.exists() else {}
    if before.get("fingerprint") == current and (ROOT / "staticfiles" / "staticfiles.json").exists():
        return
    processes.run(parts.manage(settings, "migrate", "--noinput"))
    processes.run(parts.manage(settings, "collectstatic", "--noinput", "--verbosity", "0"))
    if not before:
        login = {
            "DJANGO_SUPERUSER_USERNAME": ADMIN,
            "DJANGO_SUPERUSER_EMAIL": "admin@example.com",
            "DJANGO_SUPERUSER_PASSWORD": settings.secret(PASSWORD_FILE, length=12),
        }
        processes.run(parts.manage(settings, "createsuperuser", "--noinput", **login), accepted="already taken")
        processes.run(parts.manage(settings, "seed_inventory", *settings.inventory, "--if-empty"))
    inventory = before.get("inventory", settings.inventory)
    stamp.write_text(json.dumps({"fingerprint": current, "inventory": inventory}))


def is_for_other_ports(settings: Settings) -> bool:
    """Returns whether the inventory was first filled while the modules had other ports than now."""
    stamp: dict[str, object] = json.loads((settings.postgres / "prepared").read_text())
    return stamp["inventory"] != settings.inventory


def _fingerprint() -> str:
    """Returns a digest of the files that the commands above read: dependencies, migrations, static files."""
    digest = hashlib.sha256((ROOT / "requirements.txt").read_bytes())
    product = ROOT / "registry_admin"
    for path in sorted([*product.glob("*/migrations/*.py"), *product.glob("**/static/**/*")]):
        if path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + Path(path).read_bytes())
    return digest.hexdigest()
