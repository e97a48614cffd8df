"""Tests of the storage of static files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from pathlib import Path
from django.conf import settings
settings.STATIC_ROOT = Path(sys.argv[1])
import django
django.setup()
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.templatetags.static import static
from wsgiref.util import setup_testing_defaults
if sys.argv[2] == "collected":
    call_command("collectstatic", interactive=False, verbosity=0)
application = get_wsgi_application()
environ = {"PATH_INFO": static("admin/css/base.css"), "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1"}
setup_testing_defaults(environ)
body = b"".join(application(environ, lambda status, headers: print(environ["PATH_INFO"], status)))
print(b"--primary" in body)
"""


@pytest.mark.system
@pytest.mark.parametrize("state", ["collected", "not-collected"])
def test_static_file_is_served_with_and_without_collectstatic(tmp_path: Path, state: str) -> None:
    env = os.environ | {"DATABASE_URL": f"sqlite:///{tmp_path / 'none.sqlite3'}", "DJANGO_ALLOWED_HOSTS": "localhost"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "static"), state],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    path, code, _reason, body = result.stdout.split()
    assert (code, body) == ("200", "True")
    plain = "/static/admin/css/base.css"
    assert (path == plain) == (state == "not-collected")
    assert path.startswith("/static/admin/css/base.")
