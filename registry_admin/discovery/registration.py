"""A process registers itself when it serves, stays registered, and leaves cleanly. It never blocks or fails a start."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Self, Unpack

from registry_admin.consul import validation
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.consul.types import META_SELF, CheckKind, ServiceInstance, ServiceSpec
from registry_admin.discovery import prefork, probe, process, reporting
from registry_admin.discovery.identity import IdentityOptions, own_spec
from registry_admin.discovery.membership import Membership
from registry_admin.discovery.probe import Answer
from registry_admin.errors import ConfigurationError, ConsulUnavailableError, InvalidValueError, RegistryError

logger = logging.getLogger(__name__)

KEEP_ALIVE_S = 2.0  # an agent that has lost its state is told again so soon
FIRST_POLL_S, LONGEST_POLL_S = 0.01, 0.05  # of itself, so that it can be called right after it has begun to answer
RETRY_S = 2.0  # the longest wait between two tries while Consul is away
REFUSED_RETRY_S = 30.0  # and while it refuses: mostly a person has to mend something first
PATIENCE_S = 5.0  # with the other workers, where one of them is just registering or leaving
UNHEALTHY_S = 10.0  # it accepts connections but doesn't pass its own health check: register it, so that people see it
SILENT_S = 60.0  # nothing listens at its address, as far as it can tell itself
_LEAVE_WAIT_S, _LEAVE_CONNECT_S, _LEAVE_READ_S = 0.3, 0.2, 0.5  # a second in all, whatever state Consul is in


class Registration:
    """This process's registration, or its share in that of all workers of one server. Call `start`, later `stop`.

    A thread does the work, so nothing here waits for Consul but `stop`, for a second at most. What to register is told
    by `spec`, or else by the name, the options and the environment (see IdentityOptions); `registry` is made from the
    environment where it isn't given.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        spec: ServiceSpec | None = None,
        registry: ServiceRegistry | None = None,
        **options: Unpack[IdentityOptions],
    ) -> None:
        self.spec = spec
        self._name = name
        self._options = options
        self._registry = registry
        self._clear()

    def _clear(self) -> None:
        """As before the start."""
        self._pid = 0
        self._is_master = False
        self._stopping = threading.Event()
        self._done = threading.Event()
        self._gate = threading.Lock()  # held while registering, so that nothing registers once `stop` has begun
        self._membership: Membership | None = None
        self._complaint = ""

    def __repr__(self) -> str:
        return f"<Registration of {self.service_id or 'nothing yet'}>"

    @property
    def service_id(self) -> str:
        """The instance's ID, or nothing until it is known."""
        return self.spec.id if self.spec else ""

    @property
    def is_registered(self) -> bool:
        """Whether Consul was seen to have it, and this process hasn't left since."""
        return self._done.is_set() and not self._stopping.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is registered, at most `timeout` seconds; returns whether it is."""
        return self._done.wait(timeout)

    def start(self) -> Self:
        """Begins in the background. A gunicorn master that preloads leaves it to its workers, and sees to the end."""
        process.watch_forks(self)
        if self._pid == os.getpid():
            return self
        self._clear()
        self._pid = os.getpid()
        self._is_master = prefork.in_master()
        process.watch_end(self)
        if not self._is_master:
            threading.Thread(target=self._run, name="registration", daemon=True).start()
        return self

    def stop(self) -> None:
        """Leaves; the last one to do so deregisters. Takes a second at most, and never raises."""
        if self._pid != os.getpid() or self._stopping.is_set():
            return
        self._stopping.set()
        process.forget(self)
        entered = self._gate.acquire(timeout=_LEAVE_WAIT_S)
        try:
            self._leave()
        except (ConfigurationError, InvalidValueError):
            pass  # what is wrong was said when it should have registered
        except (RegistryError, OSError) as error:
            logger.warning("%s could not be deregistered and will turn critical: %s", self._who, error)
        finally:
            if entered:
                self._gate.release()
            self._pid = 0

    def _leave(self) -> None:
        if self._is_master:  # in place of workers that ended without a chance to leave
            self._registry, self.spec = self._resolve()
            self._membership = _membership(self._registry, self.spec)
        if self.spec is None or self._registry is None or self._membership is None:
            return  # it never had a part in it
        with contextlib.ExitStack() as stack:
            stack.callback(self._membership.release)
            if not self._membership.leave() or prefork.master_goes_on(self.spec.port):
                return
            config = self._registry.api.config
            api = ConsulApi(dataclasses.replace(config, connect_timeout=_LEAVE_CONNECT_S, read_timeout=_LEAVE_READ_S))
            stack.callback(api.close)
            if self._done.is_set() or self._is_ours(api.agent_instance(self.spec.id)):
                api.deregister(self.spec.id)
                logger.info("%s is deregistered.", self.spec.id)

    def after_fork(self) -> None:
        """In a child: forgets what belongs to the parent, and begins anew where the child is a worker that serves."""
        if self._membership is not None:
            self._membership.close()
        self._clear()
        if prefork.is_new_worker():
            self.start()

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping, failures = self._stopping, 0
        while not stopping.is_set():
            try:
                self._keep()
            except ConsulUnavailableError as error:
                self._complain(logging.WARNING, f"will register when Consul is back: {error}")
                failures, delay = failures + 1, _pause(failures, longest_s=RETRY_S)
            except (ConfigurationError, InvalidValueError) as error:
                logger.error("%s does not register itself: %s", self._who, error)  # noqa: TRY400 - no traceback
                return
            except RegistryError as error:
                # An agent that has just started may refuse a token that it can't look up yet.
                self._complain(logging.ERROR, f"can't register: {error}")
                failures, delay = failures + 1, _pause(failures, longest_s=REFUSED_RETRY_S)
            except Exception:  # a fault of ours must not end the thread: the module would never be registered again
                logger.exception("%s could not be registered.", self._who)
                delay = _jittered(REFUSED_RETRY_S)
            else:
                failures = 0
                delay = _jittered(self._keep_alive_s)
            stopping.wait(delay)

    def _keep(self) -> None:
        """Sees to it that this process is registered; the first time, once it serves."""
        self._registry, self.spec = registry, spec = self._resolve()
        if self._membership is None:
            self._join(registry, spec)
            self._await_service(spec)
        with self._gate:
            if not self._stopping.is_set():
                self._ensure(registry, spec)

    def _resolve(self) -> tuple[ServiceRegistry, ServiceSpec]:
        """What was given, or else what the environment says."""
        registry = self._registry or ServiceRegistry.from_env()
        if self.spec is not None:
            return registry, self.spec
        spec = own_spec(self._name, self._options, environ=os.environ, consul=registry.api.config)
        reporting.known_as(spec.name)
        registry.api.refuse_own_port(spec.address, spec.port)
        return registry, spec

    def _join(self, registry: ServiceRegistry, spec: ServiceSpec) -> None:
        patience = time.monotonic() + PATIENCE_S
        while True:
            with self._gate:
                if self._stopping.is_set():
                    return
                if self._membership is None:
                    self._membership = _membership(registry, spec)
                if self._membership.join() or time.monotonic() > patience:
                    return
            self._stopping.wait(0.05)

    def _await_service(self, spec: ServiceSpec) -> None:
        """Returns once the process passes its own check, or has had enough time to."""
        began, delay = time.monotonic(), FIRST_POLL_S
        while not self._stopping.is_set() and (answer := probe.ask(spec)) is not Answer.HEALTHY:
            if time.monotonic() - began > (UNHEALTHY_S if answer is Answer.UNHEALTHY else SILENT_S):
                logger.warning("%s registers as critical: at %s:%s %s.", *_where(spec), answer.value)
                return
            self._stopping.wait(delay)
            delay = min(LONGEST_POLL_S, delay * 1.5)

    def _ensure(self, registry: ServiceRegistry, spec: ServiceSpec) -> None:
        """Registers if it has to. The inventory may have changed anything but META_SELF: that is not ours to undo."""
        api = registry.api
        if not self._is_in_order(api.agent_instance(spec.id)):
            answer = probe.ask(spec)
            if self._done.is_set() and answer is not Answer.HEALTHY:
                return  # taken out while it is unhealthy: it comes back when it answers again
            with self._alone():
                if not self._is_in_order(api.agent_instance(spec.id)) and not self._stopping.is_set():
                    registry.register(spec, passing=answer is Answer.HEALTHY)
                    if not self._complaint:
                        logger.info("%s is registered (%s:%s).", *_where(spec))
        if spec.check.kind is CheckKind.TTL:
            api.update_ttl(spec.check_id, "passing")
        if self._complaint:  # at the level of the complaint: whoever reads only those should see that it is over
            logger.warning("%s is registered now (%s:%s).", *_where(spec))
        self._complaint = ""
        self._done.set()

    def _is_in_order(self, found: ServiceInstance | None) -> bool:
        return found is not None and (self._done.is_set() or self._is_ours(found))

    def _is_ours(self, found: ServiceInstance | None) -> bool:
        return found is not None and self.spec is not None and found.meta.get(META_SELF) == self.spec.digest

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits for the other workers to have registered, if they are just doing it; not for ever."""
        patience = time.monotonic() + PATIENCE_S
        with contextlib.ExitStack() as stack:
            while self._membership and not stack.enter_context(self._membership.registering()):
                if time.monotonic() > patience or self._stopping.wait(0.02):
                    break
            yield

    @property
    def _who(self) -> str:
        return self.service_id or self._name or os.environ.get("SERVICE_NAME") or "This process"

    @property
    def _keep_alive_s(self) -> float:
        check = self.spec.check if self.spec else None
        if check is not None and check.kind is CheckKind.TTL:
            return min(KEEP_ALIVE_S, validation.seconds(check.interval) / 3)
        return KEEP_ALIVE_S

    def _complain(self, level: int, what: str) -> None:
        """Once, until it is registered or the reason changes its kind."""
        kind = what.partition(":")[0]
        if kind != self._complaint:
            logger.log(level, "%s %s", self._who, what)
        self._complaint = kind


@contextlib.contextmanager
def registered(
    name: str | None = None,
    *,
    spec: ServiceSpec | None = None,
    registry: ServiceRegistry | None = None,
    **options: Unpack[IdentityOptions],
) -> Iterator[Registration]:
    """For scripts and threads: registered while the block runs. Takes what Registration takes."""
    registration = Registration(name, spec=spec, registry=registry, **options).start()
    try:
        yield registration
    finally:
        registration.stop()


def _membership(registry: ServiceRegistry, spec: ServiceSpec) -> Membership:
    try:
        return Membership(f"{registry.api.config.url} {spec.id}")
    except OSError as error:
        logger.warning("Each worker registers for itself, because they can't find each other: %s", error)
        return Membership(None)


def _where(spec: ServiceSpec) -> tuple[str, str, int]:
    return spec.id, spec.address, spec.port


def _pause(failures: int, *, longest_s: float) -> float:
    return _jittered(min(longest_s, 0.5 * 2 ** min(failures, 10)))


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, guards nothing
