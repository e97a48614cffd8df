"""The PostgreSQL that scripts/run and these tests themselves use."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scripts import embedded_postgres
from tests.parts import wait_until

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "postgres"
    embedded_postgres.stop(tmp_path / "postgres")


def test_data_is_kept_from_one_start_to_the_next(folder: Path) -> None:
    with psycopg.connect(embedded_postgres.start(folder)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    embedded_postgres.stop(folder)
    with psycopg.connect(embedded_postgres.start(folder, durable=False)) as connection:
        assert connection.execute("SELECT answer, lower('Ä') FROM kept").fetchone() == (42, "ä")


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    url = embedded_postgres.start(folder)
    password = (folder / "password").read_text()
    assert password in url
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))
    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600


def test_it_listens_on_loopback_only_and_is_not_root(folder: Path) -> None:
    with psycopg.connect(embedded_postgres.start(folder)) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)
    owner = Path("/proc", (folder / "data/postmaster.pid").read_text().split()[0]).stat().st_uid
    assert owner == embedded_postgres.owner_id() != 0


def test_a_folder_that_only_its_owner_may_enter_will_do(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    try:
        with psycopg.connect(embedded_postgres.start(closed / "postgres")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        embedded_postgres.stop(closed / "postgres")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_start_that_fails_says_why(folder: Path) -> None:
    embedded_postgres.prepare(folder)
    (folder / "data/postgresql.conf").write_text("no such setting = 1\n")
    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match="syntax error in file"):
        embedded_postgres.start(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "scripts.embedded_postgres", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with psycopg.connect(url):
            os.kill(process.pid, number)
    wait_until(lambda: not (folder / "data/postmaster.pid").exists(), 30, "PostgreSQL to have ended in good order")
    assert "database system is shut down" in (folder / "log").read_text()
