"""Registration of this process: registers it once it serves, keeps it registered, and deregisters it at the end.

It never delays or fails the start of a process.
"""

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

from registry_admin.backoff import ExponentialBackoff, spread
from registry_admin.consul import validation
from registry_admin.consul.api import ConsulApi
from registry_admin.consul.marks import META_SELF
from registry_admin.consul.registry import ServiceRegistry
from registry_admin.consul.service_spec import ServiceSpec
from registry_admin.consul.types import ServiceInstance
from registry_admin.discovery import own_instances
from registry_admin.discovery.process_name import set_registered_name
from registry_admin.discovery.registration import process_hooks
from registry_admin.discovery.registration.identity import IdentityOptions, advertised_address, resolve_spec
from registry_admin.discovery.registration.obstacle import Obstacle, ObstacleLog
from registry_admin.discovery.registration.self_check import SelfCheckStatus, run_self_check
from registry_admin.discovery.registration.servers import gunicorn, reloaders
from registry_admin.discovery.registration.switch import may_register
from registry_admin.discovery.registration.worker_lock import WorkerLock, open_worker_lock
from registry_admin.errors import ConfigurationError, ConsulUnavailableError, InvalidValueError, RegistryError

logger = logging.getLogger(__name__)

LAUNCHER = "SERVICE_LAUNCHER"  # set for what `python -m registry_admin.discovery run` runs, which it registers itself
KEEP_ALIVE_S = 2.0  # an agent that has lost its state gets the registration again so soon
FIRST_POLL_S, MAX_POLL_S = 0.01, 0.05  # of the self-check, so that the process is registered as soon as it serves
MAX_RETRY_S = 2.0  # while Consul is away
MAX_REFUSED_RETRY_S = 30.0  # while Consul refuses: mostly a person has to change something first
LOCK_TIMEOUT_S = 5.0  # for other workers that are just registering or leaving
UNHEALTHY_TIMEOUT_S = 10.0  # a process that listens but fails its check is then registered, so that people see it
NOT_LISTENING_TIMEOUT_S = 60.0
LOG_WAIT_S = 3.0  # a process that takes longer to serve says what it waits for
_STOP_LOCK_S, _STOP_CONNECT_S, _STOP_READ_S = 0.3, 0.2, 0.5  # one second in all, however Consul behaves
_JITTER = 0.25
_AWAY_BACKOFF = ExponentialBackoff(first_s=0.5, longest_s=MAX_RETRY_S)
_REFUSED_BACKOFF = ExponentialBackoff(first_s=0.5, longest_s=MAX_REFUSED_RETRY_S)


class Registration:
    """Registration of this process, or its share in that of all workers of one server. Call `start`, later `stop`.

    A thread does the work; only `stop` waits for Consul, for a second at most. `spec` is registered, or else one that
    is made from the name, the options and the environment (see IdentityOptions). Without `registry`, one is made from
    the environment.
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
        self._reset()

    def _reset(self) -> None:
        """Returns to the state before `start`."""
        self._process_id = 0
        self._is_master = False
        self._is_held_by_parent = False  # a reloader, which ends the registration, too
        self._stopping = threading.Event()
        self._registered = threading.Event()
        self._write_lock = threading.Lock()  # held while registering, so that nothing registers after `stop`
        self._worker_lock: WorkerLock | None = None
        self._obstacles = ObstacleLog()
        self._token_digest = ""  # of the token that the instance was registered with, or first seen with

    def __repr__(self) -> str:
        return f"<Registration of {self.service_id or 'an unknown instance'}>"

    @property
    def service_id(self) -> str:
        """ID of the instance, empty until it is known."""
        return self.spec.id if self.spec else ""

    @property
    def is_registered(self) -> bool:
        """True once Consul has the instance, until `stop`; False while it is lost and can't come back yet."""
        return self._registered.is_set() and not self._obstacles.is_not_serving and not self._stopping.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the process is registered, at most `timeout` seconds; returns whether it is."""
        return self._registered.wait(timeout)

    def start(self) -> Self:
        """Starts the thread. A gunicorn master that preloads leaves that to its workers, and only deregisters."""
        if LAUNCHER in os.environ:
            return self
        process_hooks.call_after_fork(self)
        if self._process_id == os.getpid():
            return self
        self._reset()
        self._process_id = os.getpid()
        self._is_master = gunicorn.is_preloading_master()
        process_hooks.call_before_exit(self, is_serving=not self._is_master)
        if not self._is_master:
            threading.Thread(target=self._run, name="registration", daemon=True).start()
        return self

    def stop(self, *, reload_timeout_s: float = 0) -> bool:
        """Ends the registration; the last worker deregisters the instance. Returns whether this one did.

        Never raises, and waits for Consul for a second at most. The registration stays while other workers or a master
        of gunicorn go on; `reload_timeout_s` is how long to wait whether they end, too.
        """
        if self._process_id != os.getpid() or self._stopping.is_set():
            return False
        self._stopping.set()
        is_locked = self._write_lock.acquire(timeout=_STOP_LOCK_S)
        try:
            return self._leave_workers(reload_timeout_s)
        except (ConfigurationError, InvalidValueError):
            pass  # `_run` has logged it
        except (RegistryError, OSError) as error:
            logger.warning("%s could not be deregistered and will turn critical: %s", self._display_name, error)
        finally:
            if is_locked:
                self._write_lock.release()
            self._process_id = 0
            process_hooks.remove(self)
        return False

    def _leave_workers(self, reload_timeout_s: float) -> bool:
        """Deregisters the instance and returns True, unless other workers still serve it."""
        if self._is_master:  # for workers that were killed before they could leave
            self._registry, self.spec = self._resolve()
            self._worker_lock = open_worker_lock(self._registry.api.config.url, self.spec.id)
        if self.spec is None or self._registry is None or self._worker_lock is None:
            return False  # it ends before it had joined
        if self._is_held_by_parent:
            return False
        with contextlib.ExitStack() as stack:
            stack.callback(self._worker_lock.release)
            if not self._worker_lock.leave(timeout_s=reload_timeout_s):
                return False
            if gunicorn.outlives_worker(self.spec.port, timeout_s=reload_timeout_s):
                return False
            config = self._registry.api.config
            api = ConsulApi(dataclasses.replace(config, connect_timeout=_STOP_CONNECT_S, read_timeout=_STOP_READ_S))
            stack.callback(api.close)
            instance = api.agent_instance(self.spec.id)  # another worker may just have been the last
            if instance is not None and (self._registered.is_set() or self._has_own_digest(instance)):
                api.deregister(self.spec.id)
                logger.info("%s is deregistered.", self.spec.id)
                return True
        return False

    def after_fork(self) -> None:
        """Resets the registration in a child, and starts it again if the child is a worker that serves."""
        if self._worker_lock is not None:
            self._worker_lock.close()
        self._reset()
        if gunicorn.is_new_worker():
            self.start()

    # -- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping, failures = self._stopping, 0
        while not stopping.is_set():
            try:
                self._keep_registered()
            except ConsulUnavailableError as error:
                self._obstacles.report(self._display_name, Obstacle.CONSUL_AWAY, error)
                failures += 1
                pause_s = _AWAY_BACKOFF.pause_s(failures)
            except (ConfigurationError, InvalidValueError) as error:
                logger.error("%s does not register itself: %s", self._display_name, error)  # noqa: TRY400 - no traceback
                return
            except RegistryError as error:
                # An agent that has just started may refuse a token that it can't look up yet.
                self._obstacles.report(self._display_name, Obstacle.CONSUL_REFUSES, error)
                failures += 1
                pause_s = _REFUSED_BACKOFF.pause_s(failures)
            except Exception:  # a bug must not end the thread: the module would never be registered again
                logger.exception("%s could not be registered.", self._display_name)
                pause_s = MAX_REFUSED_RETRY_S
            else:
                failures, pause_s = 0, self._keep_alive_s
            stopping.wait(spread(pause_s, _JITTER, random.random()))  # noqa: S311 - spreads load, guards nothing

    def _keep_registered(self) -> None:
        """Registers the instance if Consul doesn't have it; the first time only once the process serves."""
        self._registry, self.spec = registry, spec = self._resolve()
        if self._worker_lock is None:
            own_instances.serve_as(spec.id, spec.address, spec.port)
            self._join_workers(registry, spec)
            self._wait_until_serving(spec)
        with self._write_lock:
            if not (self._stopping.is_set() or self._has_parent_left()):
                self._ensure_registered(registry, spec)

    def _resolve(self) -> tuple[ServiceRegistry, ServiceSpec]:
        """Returns the registry and the spec that were given, or else those of the environment."""
        registry = self._registry or ServiceRegistry.from_env()
        if self.spec is not None:
            return registry, self.spec
        spec = resolve_spec(
            self._name,
            self._options,
            environ=os.environ,
            consul=registry.api.config,
            agent_address=lambda: advertised_address(registry.api),
        )
        set_registered_name(spec.name)
        registry.api.refuse_own_port(spec.address, spec.port)
        return registry, spec

    def _join_workers(self, registry: ServiceRegistry, spec: ServiceSpec) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            with self._write_lock:
                if self._stopping.is_set():
                    return
                if self._worker_lock is None:
                    self._worker_lock = open_worker_lock(registry.api.config.url, spec.id)
                self._is_held_by_parent = reloaders.is_child() and self._worker_lock.has_members()
                if self._is_held_by_parent or self._worker_lock.join() or time.monotonic() > deadline:
                    return
            self._stopping.wait(0.05)

    def _has_parent_left(self) -> bool:
        return self._is_held_by_parent and self._worker_lock is not None and not self._worker_lock.has_members()

    def _wait_until_serving(self, spec: ServiceSpec) -> None:
        """Returns once the process passes its own check, or after the time-outs above if nobody else answers."""
        start, pause_s = time.monotonic(), FIRST_POLL_S
        while not self._stopping.is_set() and not (check := run_self_check(spec)).is_serving:
            waited_s = time.monotonic() - start
            is_listening = check.status is SelfCheckStatus.UNHEALTHY
            is_foreign = check.status is SelfCheckStatus.FOREIGN
            if is_foreign or waited_s > LOG_WAIT_S:
                self._obstacles.report_check(self._display_name, check)
            if not is_foreign and waited_s > (UNHEALTHY_TIMEOUT_S if is_listening else NOT_LISTENING_TIMEOUT_S):
                return
            self._stopping.wait(KEEP_ALIVE_S if is_foreign else pause_s)
            pause_s = min(MAX_POLL_S, pause_s * 1.5)

    def _ensure_registered(self, registry: ServiceRegistry, spec: ServiceSpec) -> None:
        """Registers the instance if it is missing, of another spec, or registered with a token that has been replaced.

        Changes by the inventory are left as they are. The agent tells the catalog about an instance with the token that
        registered it, for as long as it lives.
        """
        api = registry.api
        instance, token_digest = api.agent_instance(spec.id), api.token_digest
        if instance is not None and self._is_of_former_token(instance, token_digest):
            registry.register(spec)
            logger.info("%s is registered anew, with the new token (%s:%s).", *_place(spec))
        elif not self._is_current(instance):
            check = run_self_check(spec)
            # One that was evicted while unhealthy is registered again when its check passes.
            if check.status is SelfCheckStatus.FOREIGN or (self._registered.is_set() and not check.is_serving):
                self._obstacles.report_check(self._display_name, check)
                return
            with self._registrar():
                if not self._is_current(api.agent_instance(spec.id)) and not self._stopping.is_set():
                    registry.register(spec, passing=check.status is SelfCheckStatus.HEALTHY)
                    if self._obstacles.current is None:
                        logger.info("%s is registered (%s:%s).", *_place(spec))
        if spec.check.type.is_reported:
            api.update_ttl(spec.check_id, "passing")
        if (
            self._obstacles.current is not None
        ):  # as a warning, so that a log of warnings shows that the obstacle is gone
            logger.warning("%s is registered now (%s:%s).", *_place(spec))
        self._obstacles.current = None
        self._token_digest = token_digest
        self._registered.set()

    def _is_of_former_token(self, instance: ServiceInstance, token_digest: str) -> bool:
        """Returns whether we registered it with another token; what the inventory registered has the inventory's."""
        return self._registered.is_set() and self._token_digest != token_digest and not instance.is_marked

    def _is_current(self, instance: ServiceInstance | None) -> bool:
        """Returns whether `instance` needs no registration: any, once it was registered, else one of this spec."""
        return instance is not None and (self._registered.is_set() or self._has_own_digest(instance))

    def _has_own_digest(self, instance: ServiceInstance | None) -> bool:
        return instance is not None and self.spec is not None and instance.meta.get(META_SELF) == self.spec.digest

    @contextlib.contextmanager
    def _registrar(self) -> Iterator[None]:
        """Waits until no other worker registers, at most LOCK_TIMEOUT_S."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        with contextlib.ExitStack() as stack:
            while self._worker_lock and not stack.enter_context(self._worker_lock.registering()):
                if time.monotonic() > deadline or self._stopping.wait(0.02):
                    break
            yield

    @property
    def _display_name(self) -> str:
        return self.service_id or self._name or os.environ.get("SERVICE_NAME") or "This process"

    @property
    def _keep_alive_s(self) -> float:
        check = self.spec.check if self.spec else None
        if check is not None and check.type.is_reported:
            return min(KEEP_ALIVE_S, validation.seconds(check.interval) / 3)
        return KEEP_ALIVE_S


@contextlib.contextmanager
def registered(
    name: str | None = None,
    *,
    spec: ServiceSpec | None = None,
    registry: ServiceRegistry | None = None,
    **options: Unpack[IdentityOptions],
) -> Iterator[Registration]:
    """Registers this process while the block runs, for scripts and threads. Takes the arguments of Registration.

    The block ends when callers can have noticed, so whatever serves them belongs around it. Within tests nothing is
    registered, unless a `registry` is given.
    """
    registration = Registration(name, spec=spec, registry=registry, **options)
    if may_register(registry):
        registration.start()
    try:
        yield registration
    finally:
        if registration.stop():
            time.sleep(process_hooks.leave_delay_s())


def _place(spec: ServiceSpec) -> tuple[str, str, int]:
    return spec.id, spec.address, spec.port
