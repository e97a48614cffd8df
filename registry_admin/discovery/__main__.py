"""`python -m registry_admin.discovery`: `explain NAME` shows the instances that a new process would call; `run` runs a
server as a registered service.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from registry_admin.consul import validation
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.instances.explain import explain
from registry_admin.discovery.instances.registry_cache import RegistryCache
from registry_admin.discovery.registration import launcher
from registry_admin.errors import RegistryError


def main(arguments: Sequence[str]) -> int:
    """Prints the explanation and returns 0; prints an error on stderr and returns 1 where nothing is known."""
    parser = argparse.ArgumentParser(prog="python -m registry_admin.discovery", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    explain_command = commands.add_parser("explain", help="show a service's instances, their source and their age")
    explain_command.add_argument("service", metavar="NAME", help="name of the service, such as backend-api")
    explain_command.add_argument("--tag", help="show only instances with this tag")
    explain_command.add_argument("--json", action="store_true", help="print one JSON object")
    run_command = commands.add_parser("run", help="run a server, registered as SERVICE_NAME until just before it stops")
    run_command.add_argument("server", metavar="COMMAND", nargs=argparse.REMAINDER, help="the server and its arguments")
    options = parser.parse_args(arguments)
    return _run(options.server) if options.command == "run" else _explain(options)


def _explain(options: argparse.Namespace) -> int:
    try:
        service = validation.service_name(options.service, "NAME")
        explanation = explain(RegistryCache.for_registry(ServiceRegistry.from_env()), service, tag=options.tag)
    except RegistryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(explanation.as_dict(), indent=2) if options.json else str(explanation))
    sys.stdout.write("\n")
    return 0


def _run(server: Sequence[str]) -> int:
    command = server[1:] if server[:1] == ["--"] else server
    if not command:
        sys.stderr.write("Give the command that starts the server: python -m registry_admin.discovery run -- uwsgi …\n")
        return 2
    try:
        return launcher.run(command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} can't be started: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
