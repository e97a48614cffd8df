"""What is kept of instances' maintenance mode: Consul forgets it with the registration, and we don't."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from registry_admin.consul import ServiceInstance
from registry_admin.inventory.sanitize import truncated


class KeptMaintenance(NamedTuple):
    """The maintenance mode of an instance: its `reason`, or an empty text.

    `created_index`: CreateIndex of the registration that was seen in maintenance; 0 where it is to be put into it.
    `is_lost`: it is registered without maintenance mode, though nobody has ended that.
    """

    reason: str = ""
    created_index: int = 0
    is_lost: bool = False


NO_MAINTENANCE = KeptMaintenance()


class MaintenanceKeeper:
    """Brings what is kept up to date with what is registered on our agent.

    Maintenance mode that is gone was ended by somebody if it is still the same registration. It was lost if the
    instance had left in between, which its CreateIndex tells, or if `agent_lost_state`. While the catalog doesn't show
    it yet, nothing is decided.
    """

    def __init__(
        self,
        local: Mapping[str, ServiceInstance],
        *,
        agent_lost_state: bool,
        created_indexes: Callable[[], Mapping[str, int]],
    ) -> None:
        self._local = local
        self._agent_lost_state = agent_lost_state
        self._read_created_indexes = created_indexes

    def update(self, instance_id: str, kept: KeptMaintenance, *, former_ids: Iterable[str] = ()) -> KeptMaintenance:
        """Returns what to keep from now on. Maintenance mode of a former ID moves along to the present one."""
        instance = self._local.get(instance_id)
        if instance is None:
            return KeptMaintenance(kept.reason or self._reason_of_any(former_ids))
        if reason := truncated(instance.maintenance):
            return self._in_maintenance(instance_id, reason, kept)
        if not kept.reason:
            reason = self._reason_of_any(former_ids)
            return KeptMaintenance(reason, is_lost=bool(reason))
        if not kept.created_index or self._agent_lost_state:
            return KeptMaintenance(kept.reason, is_lost=True)
        index = self._created_indexes.get(instance_id)
        if index is None:
            return kept
        return NO_MAINTENANCE if index == kept.created_index else KeptMaintenance(kept.reason, is_lost=True)

    def _in_maintenance(self, instance_id: str, reason: str, kept: KeptMaintenance) -> KeptMaintenance:
        if kept.created_index and kept.reason == reason:
            return kept
        index = self._created_indexes.get(instance_id)
        if index is None:  # an index of 0 would mean that it is to be put into maintenance
            return KeptMaintenance(kept.reason)
        return KeptMaintenance(reason, index)

    def _reason_of_any(self, instance_ids: Iterable[str]) -> str:
        instances = (self._local.get(instance_id) for instance_id in instance_ids)
        return next((truncated(reason) for instance in instances if instance and (reason := instance.maintenance)), "")

    @cached_property
    def _created_indexes(self) -> Mapping[str, int]:
        return self._read_created_indexes()
