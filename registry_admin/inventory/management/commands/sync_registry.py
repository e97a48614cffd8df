"""`manage.py sync_registry`: makes Consul match the declarations, once or continuously."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import tempfile
from argparse import ArgumentParser, BooleanOptionalAction
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

from registry_admin.errors import NoSuchServiceError, RegistryError, UnsafePlanError
from registry_admin.inventory.conf import conf, consul_api
from registry_admin.inventory.database import database_errors
from registry_admin.inventory.management.terminal import Terminal
from registry_admin.inventory.management.user import user_name
from registry_admin.inventory.models import ObservedInstance, Service, SyncRun
from registry_admin.inventory.sync.reconciler import Reconciler
from registry_admin.inventory.sync.replacement import await_passing
from registry_admin.inventory.sync.result import SyncResult
from registry_admin.inventory.watcher.controller import Controller
from registry_admin.inventory.watcher.metrics import metrics_server
from registry_admin.printable import escape_unprintable
from registry_admin.reconcile.conclusion import Conclusion
from registry_admin.reconcile.plan_file import PlanFile

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Makes one run, or with --watch runs until stopped."""

    help = "Makes Consul match the declarations: registers, updates, and removes what is owned and no longer declared."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the options."""
        parser.add_argument("--dry-run", action="store_true", help="Print the plan and change nothing.")
        parser.add_argument("--watch", action="store_true", help="Keep Consul matching until stopped.")
        parser.add_argument(
            "--metrics-bind", metavar="HOST:PORT", help="With --watch: serve metrics for Prometheus at this address."
        )
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
            help="Exit with 2 if there were changes or are any to be made, where it would be 0 without this.",
        )
        parser.add_argument(
            "--expect-removals",
            type=int,
            metavar="N",
            help="Carry out removals that the brake would hold, if there are just N of them; else hold them all.",
        )
        parser.add_argument(
            "--force", action="store_true", help="Carry out all removals, however many; --expect-removals is safer."
        )
        parser.add_argument(
            "--plan-out", metavar="FILE", help="Print the plan, keep it in this file for --apply, and change nothing."
        )
        parser.add_argument(
            "--apply", metavar="FILE", help="Carry out a plan that was kept, unless either side has moved since."
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Raises CommandError, or SystemExit with the exit code that --detailed-exitcode defines."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # characters that the encoding lacks must not end a sync
                stream.reconfigure(errors="backslashreplace")
        self._terminal = Terminal(self.stdout, self.stderr)
        self._check_combinations(options)
        try:
            if options["watch"]:
                self._watch(prune=options["prune"], metrics_bind=options["metrics_bind"])
                return
            only = self._known_services(options["service"])
            if options["apply"]:
                result = self._sync(None, options, plan_file=_read_plan(options["apply"]))
            elif _is_dry(options):
                result = self._dry_run(only, options)
            else:
                result = self._sync(only, options)
        except RegistryError as error:
            self._fail(error, as_json=options["json"])
        self._exit(result, options)

    @staticmethod
    def _check_combinations(options: dict[str, Any]) -> None:
        single_run = ("dry_run", "json", "detailed_exitcode", "service", "plan_out", "apply", "force")
        if options["watch"] and (any(options[name] for name in single_run) or options["expect_removals"] is not None):
            raise CommandError(
                "--watch goes with --prune, --no-prune and --metrics-bind only. To let removals pass that the brake "
                "holds, run sync_registry --expect-removals N once."
            )
        if options["metrics_bind"] and not options["watch"]:
            raise CommandError("--metrics-bind goes with --watch: other runs are over before anybody could read them.")
        if options["force"] and options["expect_removals"] is not None:
            raise CommandError("Give --expect-removals or --force, not both.")
        if options["apply"] and (
            options["dry_run"] or options["plan_out"] or options["service"] or not options["prune"]
        ):
            raise CommandError(
                "--apply carries out what the file says: it goes with --json, --detailed-exitcode, "
                "--expect-removals and --force only."
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

    def _dry_run(self, only: frozenset[str] | None, options: dict[str, Any]) -> SyncResult:
        reconciler = Reconciler(
            trigger="",
            only=only,
            prune=options["prune"],
            force=options["force"],
            expected_removals=options["expect_removals"],
        )
        comparison, result = reconciler.preview()
        plan = result.plan
        assert plan is not None  # noqa: S101 - a preview has one
        if not options["json"]:
            self._terminal.print_plan(plan)
        if options["plan_out"]:
            declared, snapshot = comparison.inventory.declared, comparison.snapshot
            plan_file = PlanFile.of(plan, declared=declared, snapshot=snapshot, prune=options["prune"])
            _write_plan(options["plan_out"], plan_file)
        return result

    def _sync(
        self, only: frozenset[str] | None, options: dict[str, Any], *, plan_file: PlanFile | None = None
    ) -> SyncResult:
        terminal = None if options["json"] else self._terminal
        reconciler = Reconciler(
            trigger=SyncRun.Trigger.PLAN_FILE if plan_file else SyncRun.Trigger.COMMAND,
            actor=user_name(),
            only=only,
            prune=options["prune"],
            force=options["force"],
            expected_removals=options["expect_removals"],
            plan_file=plan_file,
            on_plan=terminal.start if terminal else lambda _plan: None,
            on_result=terminal.print_result if terminal else lambda _result: None,
        )
        try:
            result = reconciler.run()
            if plan_file is None and options["prune"]:
                result = self._finish_replacing(reconciler, result)
            return result
        finally:
            self._terminal.stop()

    @staticmethod
    def _finish_replacing(reconciler: Reconciler, result: SyncResult) -> SyncResult:
        """Waits for new instances to pass, and runs again to remove those whose place they take."""
        while result.ok and result.replacing and await_passing(result.replacing):
            further = replace(reconciler, on_plan=lambda _plan: None).run()
            if not further.results and not further.error:
                break
            result = replace(further, plan=result.plan, results=(*result.results, *further.results))
        return result

    def _exit(self, result: SyncResult, options: dict[str, Any]) -> None:
        if options["json"]:
            report = {
                "dry_run": _is_dry(options),
                "plan": result.plan.as_dict() if result.plan else None,
                "results": [item.as_dict() for item in result.results],
                "invalid": result.invalid,
                "error": str(result.error or ""),
                "conclusion": result.conclusion.name.lower(),
                "exit_code": self._code(result, options),
                "not_as_declared": [deviation.as_dict() for deviation in result.deviations],
                "would_remove": getattr(result.error, "would_remove", ()),
            }
            self.stdout.write(json.dumps(report, indent=2, sort_keys=True))
        else:
            self._print_summary(result, dry_run=_is_dry(options), plan_file=options["plan_out"] or "")
        if code := self._code(result, options):
            sys.exit(code)

    @staticmethod
    def _code(result: SyncResult, options: dict[str, Any]) -> int:
        """Returns the exit code: the conclusion, where changes count only if the caller has asked for that."""
        conclusion = result.conclusion
        if conclusion is Conclusion.VERIFIED and result.results:
            conclusion = Conclusion.PENDING
        return 0 if conclusion is Conclusion.PENDING and not options["detailed_exitcode"] else int(conclusion)

    def _print_summary(self, result: SyncResult, *, dry_run: bool, plan_file: str) -> None:
        for consul_id, error in sorted(result.invalid.items()):
            self._terminal.print_error(
                escape_unprintable(f"Not synced, because its declaration is invalid: {consul_id}: {error}")
            )
        if isinstance(result.error, UnsafePlanError):
            self._terminal.print_error(escape_unprintable(str(result.error)))
            for consul_id in result.error.would_remove:
                self._terminal.print_error(f"  - {escape_unprintable(consul_id)}")
        elif result.error is not None:
            self._terminal.print_error(escape_unprintable(str(result.error)))
        self._print_state(result, dry_run=dry_run)
        if plan_file:
            self._terminal.print("", f"Kept for review; carry it out with --apply {escape_unprintable(plan_file)}")

    def _print_state(self, result: SyncResult, *, dry_run: bool) -> None:
        if result.incomplete:
            self._terminal.print_error(escape_unprintable(f"Not all of Consul could be seen: {result.incomplete}."))
        for deviation in result.deviations:
            self._terminal.print_error(escape_unprintable(f"Not as declared, and left alone: {deviation}"))
        if result.results:
            succeeded = len(result.results) - len(result.failures)
            style = "green" if not result.failures else "bold red"
            self._terminal.print(style, f"{succeeded} of {len(result.results)} done.")
        if dry_run:
            self._terminal.print("", "Dry run: nothing was changed.")
        if result.conclusion is Conclusion.VERIFIED:
            self._terminal.print("green", "Consul matches the declarations.")
        elif result.conclusion is Conclusion.PENDING and not dry_run:
            self._terminal.print("yellow", "Not everything is as declared yet: run it again, or let the watcher do so.")

    def _watch(self, *, prune: bool, metrics_bind: str | None) -> None:
        controller = Controller(prune=prune)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: controller.stop())
        consul = consul_api().config.url
        logger.info(
            "watching Consul", extra={"event": "started", "consul": consul, "full_pass_every_s": conf.pass_interval_s}
        )
        with metrics_server(metrics_bind, controller) if metrics_bind else nullcontext():
            controller.run()
        logger.info("stopped", extra={"event": "stopped"})

    def _fail(self, error: RegistryError, *, as_json: bool) -> NoReturn:
        if as_json:
            self.stdout.write(json.dumps({"error": str(error)}))
        raise CommandError(escape_unprintable(str(error))) from error


def _is_dry(options: dict[str, Any]) -> bool:
    return bool(options["dry_run"] or options["plan_out"])


def _read_plan(name: str) -> PlanFile:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--apply: {escape_unprintable(name)} can't be read: {_reason(error)}") from error
    return PlanFile.load(text)


def _write_plan(name: str, plan_file: PlanFile) -> None:
    """Writes the file atomically and readable by its owner only, because tags and meta may be confidential."""
    path = Path(name)
    draft: Path | None = None
    try:
        handle, draft_name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(draft_name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(plan_file.dump())
        draft.replace(path)
    except OSError as error:
        if draft is not None:
            draft.unlink(missing_ok=True)
        raise CommandError(f"--plan-out: {escape_unprintable(name)} can't be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not text"
