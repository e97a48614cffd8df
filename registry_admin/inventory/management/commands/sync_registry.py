"""`manage.py sync_registry`: makes Consul match the declarations, once or for good, and says what it does."""

from __future__ import annotations

import getpass
import io
import json
import logging
import os
import signal
import sys
from argparse import ArgumentParser, BooleanOptionalAction
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections

from registry_admin.errors import NoSuchServiceError, RegistryError, UnsafePlanError
from registry_admin.inventory import services
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.models import ObservedInstance, Service, SyncRun
from registry_admin.inventory.services import SyncOutcome
from registry_admin.reconcile.plan import Plan
from registry_admin.reconcile.rendering import plan_lines, result_line, visible
from registry_admin.reconcile.watcher import Watcher

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

NOTHING_TO_DO, FAILED, CHANGES = 0, 1, 2


class Command(BaseCommand):
    """One pass, or with --watch one after another."""

    help = "Makes Consul match the declarations: registers, updates, and removes what is owned and no longer declared."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The options of DESIGN: each works with any other where that makes sense."""
        parser.add_argument("--dry-run", action="store_true", help="Print the plan and change nothing.")
        parser.add_argument("--watch", action="store_true", help="Keep Consul matching until stopped.")
        parser.add_argument(
            "--prune",
            action=BooleanOptionalAction,
            default=True,
            help="Remove instances that this inventory owns and no longer declares. Nothing else is ever removed.",
        )
        parser.add_argument(
            "--service", action="append", metavar="NAME", help="Only this service; may be given more than once."
        )
        parser.add_argument("--json", action="store_true", help="Print plan and results as one JSON object.")
        parser.add_argument(
            "--detailed-exitcode",
            action="store_true",
            help="Exit with 0 if there was nothing to do, 1 after an error, 2 if there were changes.",
        )
        parser.add_argument("--force", action="store_true", help="Carry out a plan that would remove unusually much.")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError, or SystemExit with the exit code that was asked for."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding doesn't know must not end a sync
                stream.reconfigure(errors="backslashreplace")
        if options["watch"] and (
            options["dry_run"] or options["json"] or options["detailed_exitcode"] or options["service"]
        ):
            raise CommandError("--watch goes with --prune, --no-prune and --force only.")
        try:
            if options["watch"]:
                self._watch(prune=options["prune"], force=options["force"])
                return
            only = self._known_services(options["service"])
            outcome = self._dry_run(only, options) if options["dry_run"] else self._sync(only, options)
        except RegistryError as error:
            self._fail(error, as_json=options["json"])
        self._exit(outcome, options)

    def _known_services(self, names: list[str] | None) -> frozenset[str] | None:
        if not names:
            return None
        with services.database_errors():
            known = set(Service.objects.filter(name__in=names).values_list("name", flat=True))
            known |= set(ObservedInstance.objects.filter(service_name__in=names).values_list("service_name", flat=True))
        unknown = sorted(set(names) - known)
        if unknown:
            raise NoSuchServiceError(
                unknown[0], f"No such service, neither declared nor seen in Consul: {', '.join(unknown)}"
            )
        return frozenset(names)

    def _dry_run(self, only: frozenset[str] | None, options: dict[str, Any]) -> SyncOutcome:
        plan, broken = services.plan_sync(only=only, prune=options["prune"])
        if not options["json"]:
            self._print_plan(plan)
        error: RegistryError | None = None
        if only is None and not options["force"]:
            try:
                plan.check_safe()
            except UnsafePlanError as refusal:
                error = refusal
        return SyncOutcome(plan=plan, broken=broken, error=error)

    def _sync(self, only: frozenset[str] | None, options: dict[str, Any]) -> SyncOutcome:
        quiet = options["json"]
        return services.sync(
            trigger=SyncRun.Trigger.COMMAND,
            actor=_who(),
            only=only,
            prune=options["prune"],
            force=options["force"],
            on_plan=(lambda _plan: None) if quiet else self._print_plan,
            on_result=(lambda _result: None) if quiet else lambda result: self._print(*result_line(result)),
        )

    def _exit(self, outcome: SyncOutcome, options: dict[str, Any]) -> None:
        if options["json"]:
            report = {
                "dry_run": options["dry_run"],
                "plan": outcome.plan.as_dict() if outcome.plan else None,
                "results": [result.as_dict() for result in outcome.results],
                "invalid": outcome.broken,
                "error": str(outcome.error or ""),
                "would_remove": getattr(outcome.error, "would_remove", ()),
            }
            self.stdout.write(json.dumps(report, indent=2, sort_keys=True))
        else:
            self._print_ending(outcome, dry_run=options["dry_run"])
        if not outcome.ok:
            sys.exit(FAILED)
        if options["detailed_exitcode"] and outcome.plan is not None and outcome.plan.changes:
            sys.exit(CHANGES)

    def _print_ending(self, outcome: SyncOutcome, *, dry_run: bool) -> None:
        for consul_id, why in sorted(outcome.broken.items()):
            self._complain(f"Not synced, because its declaration is invalid: {visible(consul_id)}: {visible(why)}")
        if isinstance(outcome.error, UnsafePlanError):
            self._complain(visible(str(outcome.error)))
            for consul_id in outcome.error.would_remove:
                self._complain(f"  - {visible(consul_id)}")
        elif outcome.error is not None:
            self._complain(visible(str(outcome.error)))
        elif outcome.plan is not None and not outcome.plan.changes and not outcome.broken:
            self._print("green", "Consul matches the declarations.")
        elif dry_run:
            self._print("", "Dry run: nothing was changed.")
        elif outcome.results:
            done = len(outcome.results) - len(outcome.failures)
            style = "green" if not outcome.failures else "bold red"
            self._print(style, f"{done} of {len(outcome.results)} done.")

    def _watch(self, *, prune: bool, force: bool) -> None:
        last_problem = ""

        def one_pass() -> None:
            nonlocal last_problem
            close_old_connections()
            outcome = services.sync(trigger=SyncRun.Trigger.WATCH, prune=prune, force=force)
            for result in outcome.results:
                logger.log(logging.INFO if result.ok else logging.ERROR, "%s", result_line(result)[1].strip())
            if outcome.error is not None and not isinstance(outcome.error, UnsafePlanError):
                raise outcome.error
            problem = "; ".join(f"{key}: {why}" for key, why in sorted(outcome.broken.items()))
            if isinstance(outcome.error, UnsafePlanError):
                problem = f"{outcome.error} Would remove: {', '.join(outcome.error.would_remove)}"
            if problem != last_problem:
                logger.log(logging.WARNING if problem else logging.INFO, "%s", visible(problem) or "all is well again")
                last_problem = problem

        watcher = Watcher(consul_api(), one_pass, every_s=conf.pass_interval_s)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: watcher.stop())
        logger.info("watching Consul at %s, a full pass every %g s", consul_api().config.url, conf.pass_interval_s)
        watcher.run()
        logger.info("stopped")

    def _print_plan(self, plan: Plan) -> None:
        for style, line in plan_lines(plan):
            self._print(style, line)

    def _print(self, style: str, text: str) -> None:
        self._console(self.stdout).print(text, style=style or None)

    def _complain(self, text: str) -> None:
        self._console(self.stderr).print(text, style="bold red")

    @staticmethod
    @cache
    def _console(stream: Any) -> Console:
        """Colours on a terminal only, and none with NO_COLOR; long lines stay whole, for grep and copying."""
        from rich.console import Console  # noqa: PLC0415 - costs more than all the rest of a start

        return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _fail(self, error: RegistryError, *, as_json: bool) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"error": str(error)}))
        raise CommandError(visible(str(error))) from error


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"
