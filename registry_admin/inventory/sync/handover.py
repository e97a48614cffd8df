"""The outcome of handing instances over to the inventory, or from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class HandoverResult:
    """Outcome of an adoption or a release: service IDs in `done`, reasons by service ID in `refused`."""

    done: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
