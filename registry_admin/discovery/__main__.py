"""`python -m registry_admin.discovery explain NAME`: what a process that starts now would know of a service."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from registry_admin.consul import validation
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.discovery.directory import Directory
from registry_admin.discovery.explanation import Explanation
from registry_admin.errors import RegistryError


def main(arguments: Sequence[str]) -> int:
    """0; 1 where nothing can be known, with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m registry_admin.discovery", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    explain = commands.add_parser("explain", help="a service's instances, from where they are known, and since when")
    explain.add_argument("service", metavar="NAME", help="as it is called, such as backend-api")
    explain.add_argument("--tag", help="only instances that carry it")
    explain.add_argument("--json", action="store_true", help="as one JSON object")
    options = parser.parse_args(arguments)
    try:
        service = validation.service_name(options.service, "NAME")
        explanation = Explanation.of(Directory.of(ServiceRegistry.from_env()), service, tag=options.tag)
    except RegistryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(explanation.as_dict(), indent=2) if options.json else str(explanation))
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
