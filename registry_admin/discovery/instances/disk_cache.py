"""Instance lists on disk, so that a process that starts while Consul is away can call services."""

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
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from registry_admin.consul.health import Health
from registry_admin.consul.types import ServiceInstance

logger = logging.getLogger(__name__)

VARIABLE = "DISCOVERY_CACHE_DIR"
_FORMAT_VERSION = 1
_KEPT_META = ("scheme", "base_path")  # what a call depends on
_MAX_BYTES = 16 * 1024 * 1024
# Without O_NONBLOCK, opening a pipe that lies in the file's place would wait for a writer.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class SavedInstances(NamedTuple):
    """A list that was loaded from disk, and its age in seconds."""

    instances: list[ServiceInstance]
    age_s: float


class DiskCache:
    """A folder with one JSON file per service, for one Consul. Without a folder nothing is saved. Never raises.

    Files are replaced as a whole, so several processes may share the folder.
    """

    def __init__(self, folder: str | None, *, consul_url: str) -> None:
        self._folder = Path(folder) if folder else None
        self._consul_url = consul_url
        self._has_warned = False
        self._saved: dict[str, str] = {}

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ, *, consul_url: str) -> Self:
        """Returns a cache in the folder that DISCOVERY_CACHE_DIR names, or one that saves nothing."""
        return cls(environ.get(VARIABLE), consul_url=consul_url)

    def save(self, service: str, instances: Sequence[ServiceInstance]) -> None:
        """Saves the list without outputs of checks. Removes the file for an empty list, which would help nobody."""
        if self._folder is None:
            return
        text = json.dumps({**self._header(service), "instances": [_to_json(instance) for instance in instances]})
        path = self._path(self._folder, service)
        try:
            if not instances:
                path.unlink(missing_ok=True)
            elif self._saved.get(service) == text:
                os.utime(path)
            else:
                self._write(path, text)
            self._saved[service] = text
        except OSError as error:
            self._saved.pop(service, None)
            self._warn_once(f"{path.name} can't be written ({error.strerror})")

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Replaces the file atomically, readable by this user only."""
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

    def touch(self, service: str) -> None:
        """Marks the saved list as confirmed by Consul just now."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.utime(self._path(self._folder, service))

    def load(self, service: str) -> SavedInstances | None:
        """Returns the saved list, or None if there is no file or none that can be trusted."""
        if self._folder is None:
            return None
        path = self._path(self._folder, service)
        try:
            with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as file:
                status = os.fstat(file.fileno())
                if not _is_trusted(status):
                    self._warn_once(f"{path.name} can be written by another user, or is no file")
                    return None
                document = json.loads(file.read(_MAX_BYTES))
            header = self._header(service)
            if {name: document[name] for name in header} != header:
                self._warn_once(f"{path.name} is for another Consul, another version or another service")
                return None
            instances = [_from_json(service, fields) for fields in document["instances"]]
            return SavedInstances(instances, max(0.0, time.time() - status.st_mtime))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once(f"{path.name} can't be read ({error.strerror})")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._warn_once(f"{path.name} holds no list of instances ({type(error).__name__})")
        return None

    def _header(self, service: str) -> dict[str, object]:
        return {"form": _FORMAT_VERSION, "consul": self._consul_url, "service": service}

    def _warn_once(self, problem: str) -> None:
        """Logs the first problem only: a full disk would repeat it every few seconds."""
        if not self._has_warned:
            logger.warning("Calls go on without the cache in %s: %s.", VARIABLE, problem)
        self._has_warned = True

    @staticmethod
    def _path(folder: Path, service: str) -> Path:
        return folder / f"{quote(service, safe='')}.json"


def _is_trusted(status: os.stat_result) -> bool:
    """Returns whether only this user or root can write the file: it decides where calls send their credentials."""
    is_own = not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid())
    return stat.S_ISREG(status.st_mode) and is_own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _to_json(instance: ServiceInstance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "address": instance.address,
        "port": instance.port,
        "tags": list(instance.tags),
        "meta": {name: value for name, value in instance.meta.items() if name in _KEPT_META},
        "weight": instance.weight,
        "health": instance.health.value,
        "node": instance.node,
    }


def _from_json(service: str, fields: Mapping[str, Any]) -> ServiceInstance:
    """Returns the instance; raises ValueError, TypeError or KeyError for anything that `_to_json` doesn't write."""
    for name in ("id", "address", "node"):
        if not isinstance(fields[name], str):
            raise TypeError(name)
    weight, tags, meta = fields["weight"], fields["tags"], fields["meta"]
    if isinstance(fields["port"], bool) or not isinstance(fields["port"], int):
        raise TypeError("port")
    if not isinstance(tags, list) or not isinstance(meta, dict):
        raise TypeError("tags or meta")
    if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 65535:
        raise ValueError("weight")
    return ServiceInstance(
        service=service,
        id=fields["id"],
        address=fields["address"],
        port=fields["port"],
        tags=tuple(str(tag) for tag in tags),
        meta={name: str(meta[name]) for name in _KEPT_META if name in meta},
        weight=weight,
        health=Health(fields["health"]),
        node=fields["node"],
    )
