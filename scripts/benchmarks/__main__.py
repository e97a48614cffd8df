"""`scripts/bench`: which measurements there are, and what came out of one."""

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

# A measurement takes the parts that it may start, and whether only small sizes are wanted.
MEASUREMENTS: dict[str, tuple[str, Callable[..., list[Figure]]]] = {
    "call": ("calls by name, beside the plain requests that they replace", call.measure),
    "failover": ("what becomes of calls when an instance or Consul fails", failover.measure),
    "pages": ("what every page costs the server at 10,000 instances", pages.measure),
    "sync": ("making Consul match the declarations, and keeping it so", sync.measure),
}


def main(arguments: list[str]) -> int:
    """0 whether goals are met or not; 1 where something can't be measured here."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: only to see that it works")
    chosen = parser.add_subparsers(dest="name", title="measurements")
    for name, (what, _) in MEASUREMENTS.items():
        one = chosen.add_parser(name, help=what, description=f"Measures {what}.")
        for option, meaning in (("--json", "print the figures as JSON"), ("--quick", "small sizes and few rounds")):
            one.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=meaning)
    options = parser.parse_args(arguments)
    if options.name is None:
        parser.print_help()
        return 0
    parts = Parts(say=say)
    catch_signals(parts)
    try:
        figures = MEASUREMENTS[options.name][1](parts, quick=options.quick)
    except InterruptedRunError:
        return 130
    except (RunError, EmbeddedPostgresError) as error:
        say(str(error))
        return 1
    finally:
        parts.end()
    print(json.dumps([figure.as_dict() for figure in figures], indent=2) if options.json else table(figures))
    return 0


def catch_signals(parts: Parts) -> None:
    """Asks to end; what was started is ended before we go."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        parts.processes.stopping.set()
        raise InterruptedRunError

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)


def say(message: str) -> None:
    """Progress goes to stderr: the figures are what is on stdout."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
