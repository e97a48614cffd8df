"""`manage.py sync_registry`: makes Consul match the declarations, once or for good, and says what it does."""

from __future__ import annotations

import getpass
import io
import json
import logging
import os
import signal
import sys
import tempfile
from argparse import ArgumentParser, BooleanOptionalAction
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

from registry_admin.errors import NoSuchServiceError, RegistryError, UnsafePlanError
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.controller import Controller
from registry_admin.inventory.models import ObservedInstance, Service, SyncRun
from registry_admin.inventory.passes import Pass, SyncOutcome
from registry_admin.inventory.store import database_errors
from registry_admin.inventory.terminal import Terminal
from registry_admin.reconcile.plan_file import PlanFile
from registry_admin.reconcile.rendering import visible

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
        parser.add_argument(
            "--plan-out", metavar="FILE", help="Print the plan, keep it in this file for --apply, and change nothing."
        )
        parser.add_argument(
            "--apply", metavar="FILE", help="Carry out a plan that was kept, unless either side has moved since."
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError, or SystemExit with the exit code that was asked for."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what a terminal's encoding doesn't know must not end a sync
                stream.reconfigure(errors="backslashreplace")
        self._terminal = Terminal(self.stdout, self.stderr)
        self._refuse_odd_combinations(options)
        try:
            if options["watch"]:
                self._watch(prune=options["prune"], force=options["force"])
                return
            only = self._known_services(options["service"])
            if options["apply"]:
                outcome = self._sync(None, options, reviewed=_read_plan(options["apply"]))
            elif _is_dry(options):
                outcome = self._dry_run(only, options)
            else:
                outcome = self._sync(only, options)
        except RegistryError as error:
            self._fail(error, as_json=options["json"])
        self._exit(outcome, options)

    @staticmethod
    def _refuse_odd_combinations(options: dict[str, Any]) -> None:
        one_pass = ("dry_run", "json", "detailed_exitcode", "service", "plan_out", "apply")
        if options["watch"] and any(options[name] for name in one_pass):
            raise CommandError("--watch goes with --prune, --no-prune and --force only.")
        if options["apply"] and (
            options["dry_run"] or options["plan_out"] or options["service"] or not options["prune"]
        ):
            raise CommandError(
                "--apply carries out what the file says: it goes with --json, --detailed-exitcode and --force only."
            )

    def _known_services(self, names: list[str] | None) -> frozenset[str] | None:
        if not names:
            return None
        with database_errors():
            known = set(Service.objects.filter(name__in=names).values_list("name", flat=True))
            known |= set(ObservedInstance.objects.filter(service_name__in=names).values_list("service_name", flat=True))
        unknown = sorted(set(names) - known)
        if unknown:
            raise NoSuchServiceError(
                unknown[0], f"No such service, neither declared nor seen in Consul: {', '.join(unknown)}"
            )
        return frozenset(names)

    def _dry_run(self, only: frozenset[str] | None, options: dict[str, Any]) -> SyncOutcome:
        look, outcome = Pass(trigger="", only=only, prune=options["prune"]).preview()
        plan = outcome.plan
        assert plan is not None  # noqa: S101 - a preview has one
        if not options["json"]:
            self._terminal.plan(plan)
        error: RegistryError | None = None
        if not options["force"]:
            try:
                plan.check_safe()
            except UnsafePlanError as refusal:
                error = refusal
        if options["plan_out"]:
            declared, observation = look.inventory.declared, look.observation
            kept = PlanFile.of(plan, declared=declared, observation=observation, prune=options["prune"])
            _write_plan(options["plan_out"], kept)
        return replace(outcome, error=error)

    def _sync(
        self, only: frozenset[str] | None, options: dict[str, Any], *, reviewed: PlanFile | None = None
    ) -> SyncOutcome:
        shown = None if options["json"] else self._terminal
        try:
            return Pass(
                trigger=SyncRun.Trigger.PLAN_FILE if reviewed else SyncRun.Trigger.COMMAND,
                actor=_who(),
                only=only,
                prune=options["prune"],
                force=options["force"],
                reviewed=reviewed,
                on_plan=shown.begin if shown else lambda _plan: None,
                on_result=shown.result if shown else lambda _result: None,
            ).make()
        finally:
            self._terminal.end()

    def _exit(self, outcome: SyncOutcome, options: dict[str, Any]) -> None:
        if options["json"]:
            report = {
                "dry_run": _is_dry(options),
                "plan": outcome.plan.as_dict() if outcome.plan else None,
                "results": [result.as_dict() for result in outcome.results],
                "invalid": outcome.broken,
                "error": str(outcome.error or ""),
                "would_remove": getattr(outcome.error, "would_remove", ()),
            }
            self.stdout.write(json.dumps(report, indent=2, sort_keys=True))
        else:
            self._print_ending(outcome, dry_run=_is_dry(options), kept_in=options["plan_out"] or "")
        if not outcome.ok:
            sys.exit(FAILED)
        if options["detailed_exitcode"] and outcome.plan is not None and outcome.plan.changes:
            sys.exit(CHANGES)

    def _print_ending(self, outcome: SyncOutcome, *, dry_run: bool, kept_in: str) -> None:
        for consul_id, why in sorted(outcome.broken.items()):
            self._terminal.complain(
                f"Not synced, because its declaration is invalid: {visible(consul_id)}: {visible(why)}"
            )
        if isinstance(outcome.error, UnsafePlanError):
            self._terminal.complain(visible(str(outcome.error)))
            for consul_id in outcome.error.would_remove:
                self._terminal.complain(f"  - {visible(consul_id)}")
        elif outcome.error is not None:
            self._terminal.complain(visible(str(outcome.error)))
        elif outcome.plan is not None and not outcome.plan.changes and not outcome.broken:
            self._terminal.say("green", "Consul matches the declarations.")
        elif dry_run:
            self._terminal.say("", "Dry run: nothing was changed.")
        elif outcome.results:
            done = len(outcome.results) - len(outcome.failures)
            style = "green" if not outcome.failures else "bold red"
            self._terminal.say(style, f"{done} of {len(outcome.results)} done.")
        if kept_in:
            self._terminal.say("", f"Kept for review; carry it out with --apply {visible(kept_in)}")

    def _watch(self, *, prune: bool, force: bool) -> None:
        controller = Controller(prune=prune, force=force)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: controller.stop())
        consul = consul_api().config.url
        logger.info(
            "watching Consul", extra={"event": "started", "consul": consul, "full_pass_every_s": conf.pass_interval_s}
        )
        controller.run()
        logger.info("stopped", extra={"event": "stopped"})

    def _fail(self, error: RegistryError, *, as_json: bool) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"error": str(error)}))
        raise CommandError(visible(str(error))) from error


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"


def _is_dry(options: dict[str, Any]) -> bool:
    return bool(options["dry_run"] or options["plan_out"])


def _read_plan(name: str) -> PlanFile:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--apply: {visible(name)} can't be read: {_plainly(error)}") from error
    return PlanFile.load(text)


def _write_plan(name: str, kept: PlanFile) -> None:
    """All or nothing, and for nobody else's eyes: tags and meta may tell something."""
    path = Path(name)
    draft: Path | None = None
    try:
        handle, drafted = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(drafted)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(kept.dump())
        draft.replace(path)
    except OSError as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise CommandError(f"--plan-out: {visible(name)} can't be written: {_plainly(error)}") from error


def _plainly(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not text"
