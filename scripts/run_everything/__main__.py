"""Entry point of scripts/run: starts everything, prints how to use it, waits for the end and ends in order."""

from __future__ import annotations

import contextlib
import fcntl
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from scripts import embedded_postgres
from scripts.run_everything import parts, preparation
from scripts.run_everything.processes import InterruptedRunError, Processes
from scripts.run_everything.settings import HOST, RunError, Settings


def main() -> int:
    """Runs until Ctrl-C or SIGTERM (0), or until a part can't be started (1)."""
    processes = Processes()
    catch_signals(processes)
    try:
        settings = Settings.from_env()
        with exclusive(settings):
            settings.check_ports()
            return run(settings, processes)
    except InterruptedRunError:
        return 0
    except (RunError, OSError) as error:
        report(f"scripts/run: {error}", error=True)
        return 1


def run(settings: Settings, processes: Processes) -> int:
    """Starts everything, waits for the signal to end, and ends everything. Returns the exit code."""
    code = 0
    try:
        start(settings, processes)
        print_addresses(settings)
        watch(processes)
    except InterruptedRunError:
        pass
    except (RunError, OSError) as error:
        report(f"\nscripts/run: {error}", error=True)
        code = 1
    end(settings, processes)
    return code


def start(settings: Settings, processes: Processes) -> None:
    """Starts the parts in the order in which they need each other."""
    report(f"Logs: {parts.relative_path(settings.logs)}")
    with step("Starting PostgreSQL and Consul"):
        database = parts.postgres(settings)
        processes.start(database, parts.consul(settings))
        processes.wait_until(
            lambda: embedded_postgres.is_ready(settings.ports["POSTGRES_PORT"]), "PostgreSQL to take connections"
        )
        processes.wait_until(lambda: parts.consul_is_ready(settings), "Consul to elect itself")
    with step("Preparing the database"):
        preparation.prepare(settings, processes)
    with step("Starting the admin, the watcher, two backends and the research module"):
        processes.start(parts.web(settings), parts.watcher(settings), *parts.modules(settings))
        for name in ("WEB_PORT", "BACKEND_PORT", "BACKEND2_PORT", "RESEARCH_PORT"):
            url = f"http://{HOST}:{settings.ports[name]}/health"
            processes.wait_until(lambda url=url: parts.is_healthy(url), f"{url} to answer")  # type: ignore[misc]
    with step("Waiting for Consul to find all of them healthy"):
        for service, count in parts.EXPECTED.items():
            processes.wait_until(
                lambda service=service, count=count: parts.passing(settings, service) >= count,  # type: ignore[misc]
                f"Consul to find {count} healthy of {service}",
            )


def print_addresses(settings: Settings) -> None:
    """Prints where everything is, and what to try."""
    port = settings.ports
    report(
        f"\nEverything runs.\n"
        f"  Dashboard  http://localhost:{port['WEB_PORT']}/\n"
        f"             user {preparation.ADMIN}, password {settings.secret(preparation.PASSWORD_FILE)}\n"
        f"  Consul     http://localhost:{port['CONSUL_PORT']}/ui/\n"
        f"Try:\n"
        f"  curl -X POST localhost:{port['RESEARCH_PORT']}/enrich -H 'Content-Type: application/json' "
        f'-d \'{{"title":"Test"}}\'\n'
        f"Ctrl-C ends everything. Data is kept in {parts.relative_path(settings.folder)}; delete it to begin anew."
    )
    if preparation.is_for_other_ports(settings):
        report("Note: the inventory was first filled for other ports than these. Change its declarations in the admin.")


def watch(processes: Processes) -> None:
    """Reports processes that end, until the signal to end comes. The others go on."""
    while True:
        for process in processes.newly_ended():
            log = parts.relative_path(process.log)
            report(f"{process.name} has ended ({process.ended}); the rest goes on. Its log: {log}")
        processes.pause()


def end(settings: Settings, processes: Processes) -> None:
    """Ends everything, the parts that others need last."""
    processes.stopping.set()
    if not processes.all:
        return
    report("\nEnding everything:")
    killed = []
    with step("The modules, which leave Consul"):
        killed += processes.end(*parts.MODULES)
    with step("The watcher and the admin"):
        killed += processes.end("watcher")
        killed += processes.end("web")
    with step("The rest of the registrations, Consul and PostgreSQL"):
        parts.deregister_all(settings)
        killed += processes.end("consul", "postgres")
    report(f"Killed, because they did not end: {', '.join(killed)}." if killed else "Everything has ended.")


@contextlib.contextmanager
def step(description: str) -> Iterator[None]:
    """Prints what is being done, and then how long it took."""
    report(f"{description} …", end=" ")
    started = time.monotonic()
    yield
    report(f"{time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Holds the lock of the folder. Raises RunError where another scripts/run has it."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = parts.relative_path(settings.folder)
            raise RunError(
                f"It runs already, with its data in {folder}. End that one with Ctrl-C first, "
                f"or run a second one with another folder and other ports: RUN_DIR=… WEB_PORT=… scripts/run"
            ) from None
        yield


def catch_signals(processes: Processes) -> None:
    """Installs handlers: the first signal begins the end, and more of them change nothing."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        processes.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)


def report(message: str, *, end: str = "\n", error: bool = False) -> None:
    """Prints the message. A closed terminal is ignored, so that the end isn't cut short."""
    with contextlib.suppress(OSError):
        print(message, end=end, file=sys.stderr if error else sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
