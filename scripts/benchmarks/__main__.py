"""Entry point of scripts/bench: lists the measurements, runs one and prints its figures."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from types import FrameType

from scripts.benchmarks import call, failover, pages, sync
from scripts.benchmarks.figures import Figure, table
from scripts.benchmarks.parts import Parts
from scripts.embedded_postgres import EmbeddedPostgresError
from scripts.run_everything.processes import InterruptedRunError
from scripts.run_everything.settings import RunError

# By name: the subject, and a function that takes the parts and whether to measure small sizes only.
MEASUREMENTS: dict[str, tuple[str, Callable[..., list[Figure]]]] = {
    "call": ("calls by name, beside the plain requests that they replace", call.measure),
    "failover": ("calls while an instance or Consul fails", failover.measure),
    "pages": ("cost of every page on the server at 10,000 instances", pages.measure),
    "sync": ("registering, passes without changes, and repairs by the watcher", sync.measure),
}


def main(arguments: list[str]) -> int:
    """Returns 0 even if goals are missed, 1 if a part can't be started, or 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few rounds: only a check that the measurement works"
    )
    commands = parser.add_subparsers(dest="name", title="measurements")
    for name, (subject, _) in MEASUREMENTS.items():
        command = commands.add_parser(name, help=subject, description=f"Measures {subject}.")
        for option, meaning in (("--json", "print the figures as JSON"), ("--quick", "small sizes and few rounds")):
            command.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=meaning)
    options = parser.parse_args(arguments)
    if options.name is None:
        parser.print_help()
        return 0
    parts = Parts(say=report)
    catch_signals(parts)
    try:
        figures = MEASUREMENTS[options.name][1](parts, quick=options.quick)
    except InterruptedRunError:
        return 130
    except (RunError, EmbeddedPostgresError) as error:
        report(str(error))
        return 1
    finally:
        parts.end()
    print(json.dumps([figure.as_dict() for figure in figures], indent=2) if options.json else table(figures))
    return 0


def catch_signals(parts: Parts) -> None:
    """Installs handlers that end the started parts."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        parts.processes.stopping.set()
        raise InterruptedRunError

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)


def report(message: str) -> None:
    """Prints progress to stderr: stdout is for the figures."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
