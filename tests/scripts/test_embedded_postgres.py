"""Tests of the embedded PostgreSQL that scripts/run and the test suite use."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scripts import embedded_postgres
from tests.parts import wait_until

pytestmark = pytest.mark.system

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "postgres"
    embedded_postgres.remove(tmp_path / "postgres")


def test_start_again_keeps_data(folder: Path) -> None:
    with psycopg.connect(embedded_postgres.start(folder)) as connection:
        connection.execute("CREATE TABLE results AS SELECT 42 AS answer")
    embedded_postgres.stop(folder)
    with psycopg.connect(embedded_postgres.start(folder, durable=False)) as connection:
        assert connection.execute("SELECT answer, lower('Ä') FROM results").fetchone() == (42, "ä")


def test_connection_with_wrong_password_is_refused(folder: Path) -> None:
    url = embedded_postgres.start(folder)
    password = (folder / "password").read_text()
    assert password in url
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600


def test_server_listens_on_loopback_only_and_is_not_root(folder: Path) -> None:
    with psycopg.connect(embedded_postgres.start(folder)) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)
    owner = Path("/proc", (folder / "data/postmaster.pid").read_text().split()[0]).stat().st_uid
    assert owner == embedded_postgres.owner_id() != 0


def test_start_in_folder_of_mode_0700_keeps_it_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    try:
        with psycopg.connect(embedded_postgres.start(closed / "postgres")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        data = (closed / "postgres/data").resolve()
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
    finally:
        embedded_postgres.remove(closed / "postgres")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not data.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_server_run_by_root_has_no_right_of_root(folder: Path) -> None:
    embedded_postgres.start(folder)
    pid = (folder / "data/postmaster.pid").read_text().split()[0]
    status = dict(line.split(":\t", 1) for line in Path("/proc", pid, "status").read_text().splitlines())
    assert status["Name"] == "postgres"
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")] == [0, 0, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_binaries_in_folder_of_mode_0700_are_copied_to_a_readable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = embedded_postgres._installation()
    closed = tmp_path / "closed" / installed.parent.name / installed.name
    closed.parent.parent.mkdir(mode=0o700)
    shutil.copytree(installed, closed, symlinks=True)
    shutil.copytree(embedded_postgres._libraries(installed), embedded_postgres._libraries(closed), symlinks=True)
    (closed / "share/postgresql/postgres.bki").chmod(0o600)
    with tempfile.TemporaryDirectory(prefix="registry-admin-test-") as shared:
        monkeypatch.setattr(embedded_postgres, "SHARED", Path(shared))
        assert not embedded_postgres._can_use(closed, recursively=True)
        copy = embedded_postgres._shared_copy(closed)
        assert embedded_postgres._shared_copy(closed) == copy
        monkeypatch.setattr(embedded_postgres, "_installation", lambda: copy)
        try:
            with psycopg.connect(embedded_postgres.start(tmp_path / "postgres")) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            embedded_postgres.remove(tmp_path / "postgres")


def test_start_with_invalid_configuration_raises_the_reason(folder: Path) -> None:
    embedded_postgres.prepare(folder)
    (folder / "data/postgresql.conf").write_text("no such setting = 1\n")
    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="syntax error in file"):
        embedded_postgres.start(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_server_ends_with_the_process_that_started_it(folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "scripts.embedded_postgres", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with psycopg.connect(url):
            os.kill(process.pid, number)
    wait_until(lambda: not (folder / "data/postmaster.pid").exists(), 30, "the orderly end of PostgreSQL")
    assert "database system is shut down" in (folder / "log").read_text()
