"""What was last known of a service, as a file: so that a process that starts while Consul is away can call."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from registry_admin.consul.types import Health, ServiceInstance

logger = logging.getLogger(__name__)

VARIABLE = "DISCOVERY_CACHE_DIR"
_FORM = 1  # of the file
_MAX_BYTES = 16 * 1024 * 1024
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for


class Cache:
    """A folder with one small JSON file per service, for one Consul (`consul` is its URL). Never raises.

    Files are replaced whole, so several processes may share the folder. Without a folder it keeps nothing.
    """

    def __init__(self, folder: str | None, *, consul: str) -> None:
        self._folder = Path(folder) if folder else None
        self._consul = consul
        self._complained = False
        self._saved: dict[str, str] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, *, consul: str) -> Self:
        """In the folder that DISCOVERY_CACHE_DIR names."""
        return cls(environ.get(VARIABLE), consul=consul)

    def save(self, service: str, instances: Sequence[ServiceInstance]) -> None:
        """Keeps the list, without what the checks said. An empty one is no help to anybody: its file is removed."""
        if self._folder is None:
            return
        kept = [_kept(one) for one in instances]
        text = json.dumps({"form": _FORM, "consul": self._consul, "service": service, "instances": kept})
        try:
            if not instances:
                self._path(self._folder, service).unlink(missing_ok=True)
            elif self._saved.get(service) == text:  # only what a check said is new
                os.utime(self._path(self._folder, service))
            else:
                self._replace(self._path(self._folder, service), text)
            self._saved[service] = text
        except OSError as error:
            self._saved.pop(service, None)
            self._complain("can't be written", error.strerror)

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        """Readers see the old file or the new one, and nobody else sees either."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    def confirm(self, service: str) -> None:
        """What the file says was just seen to be so still."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.utime(self._path(self._folder, service))

    def load(self, service: str) -> tuple[list[ServiceInstance], float] | None:
        """The list and its age in seconds, or None where there is no file or none that can be believed."""
        if self._folder is None:
            return None
        path = self._path(self._folder, service)
        try:
            with os.fdopen(os.open(path, _READ), "rb") as file:
                status = os.fstat(file.fileno())
                if not _is_ours(status):
                    self._complain(f"holds {path.name}, which somebody else may have written", "not used")
                    return None
                raw = json.loads(file.read(_MAX_BYTES))
            if (raw["form"], raw["consul"], raw["service"]) != (_FORM, self._consul, service):
                self._complain(f"holds {path.name} of another Consul, version or service", "not used")
                return None
            return [_restored(service, one) for one in raw["instances"]], max(0.0, time.time() - status.st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("can't be read", error.strerror)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._complain(f"holds no list of instances in {path.name}", type(error).__name__)
        return None

    def _complain(self, what: str, why: str | None) -> None:
        """Once: a full disk would say so every few seconds."""
        if not self._complained:
            logger.warning("The folder in %s %s (%s). Calls go on without it.", VARIABLE, what, why)
        self._complained = True

    @staticmethod
    def _path(folder: Path, service: str) -> Path:
        return folder / f"{quote(service, safe='')}.json"


def _is_ours(status: os.stat_result) -> bool:
    """Whether only we, or root, can have written it: it tells where calls with their credentials go."""
    own = not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid())
    return stat.S_ISREG(status.st_mode) and own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _kept(instance: ServiceInstance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "address": instance.address,
        "port": instance.port,
        "tags": list(instance.tags),
        "meta": {"scheme": instance.meta["scheme"]} if "scheme" in instance.meta else {},
        "weight": instance.weight,
        "health": instance.health.value,
        "node": instance.node,
    }


def _restored(service: str, raw: Mapping[str, Any]) -> ServiceInstance:
    """Raises ValueError, TypeError or KeyError for anything that we wouldn't have written."""
    for name in ("id", "address", "node"):
        if not isinstance(raw[name], str):
            raise TypeError(name)
    weight, tags, meta = raw["weight"], raw["tags"], raw["meta"]
    if isinstance(raw["port"], bool) or not isinstance(raw["port"], int):
        raise TypeError("port")
    if not isinstance(tags, list) or not isinstance(meta, dict):
        raise TypeError("tags or meta")
    if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 65535:
        raise ValueError("weight")
    return ServiceInstance(
        service=service,
        id=raw["id"],
        address=raw["address"],
        port=raw["port"],
        tags=tuple(str(tag) for tag in tags),
        meta={"scheme": str(meta["scheme"])} if "scheme" in meta else {},
        weight=weight,
        health=Health(raw["health"]),
        node=raw["node"],
    )
