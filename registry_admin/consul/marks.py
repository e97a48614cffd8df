"""Marks in an instance's Consul Meta: which inventory owns it, at which place, and since which revision.

The rules that follow from them are in reconcile/ownership.py, their reasons in docs/decisions/0020-identity.md.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

# OWNER: name of the owning inventory, for people. MARK: a `Mark`, which decides. SELF: the module registered the
# instance by itself; the value is the digest of what the module asked for. DIGEST: what is in effect, check included,
# because Consul never shows a check's definition again. EVICT: after how long it is to be taken out, for the same
# reason. RELEASED: the mark of the inventory that has released it, in place of all others, so that an older backup of
# that inventory doesn't take it back.
META_OWNER = "registry-owner"
META_MARK = "registry-mark"
META_SELF = "registry-self"
META_DIGEST = "registry-digest"
META_EVICT = "registry-evict-after"
META_RELEASED = "registry-released"
OWN_META = frozenset({META_OWNER, META_MARK, META_SELF, META_DIGEST, META_EVICT})
RESERVED_META = OWN_META | {META_RELEASED}

_FORMAT = "1"
_MARK = re.compile(rf"{_FORMAT}:(?P<inventory>[0-9a-f]{{32}}):(?P<revision>[0-9]{{1,18}}):(?P<place>[0-9a-f]{{20}})")


class Place(NamedTuple):
    """The identity of an instance in Consul: instance IDs are unique per agent only."""

    datacenter: str
    node: str
    id: str

    def is_at(self, other: Place) -> bool:
        """Returns whether both are the same: Consul ignores the case of node names. An unknown datacenter is any."""
        return (
            self.id == other.id
            and self.node.lower() == other.node.lower()
            and (self.datacenter == other.datacenter or not (self.datacenter and other.datacenter))
        )

    @property
    def digest(self) -> str:
        """A fingerprint of the place, for its mark."""
        text = "\n".join((self.datacenter.lower(), self.node.lower(), self.id))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A mark of an inventory: its UUID (hex), the revision that wrote it, and the digest of the instance's place."""

    inventory: str
    revision: int
    place: str

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """Returns the mark, or None for a text that is none, or one of a newer format."""
        match = _MARK.fullmatch(text)
        return match and cls(inventory=match["inventory"], revision=int(match["revision"]), place=match["place"])

    def __str__(self) -> str:
        return f"{_FORMAT}:{self.inventory}:{self.revision}:{self.place}"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """An inventory as its marks name it: by its name, its UUID (hex), and the revision that its database has reached.

    `newest_revision` is the highest revision that Consul was seen to know. Where it is above `revision`, the database
    is older than Consul. The revisions above `lost_after` and up to `lost_until` were made before the database was
    restored to an earlier state: it doesn't know what they declared.
    """

    name: str
    inventory: str
    revision: int = 0
    newest_revision: int = 0
    lost_after: int = 0
    lost_until: int = 0

    @property
    def is_behind(self) -> bool:
        """True if Consul knows newer declarations than the database."""
        return self.newest_revision > self.revision

    def has_lost(self, revision: int) -> bool:
        """Returns whether the declarations of this revision were lost when the database was restored."""
        return self.lost_after < revision <= self.lost_until

    def marks(self, place: Place) -> dict[str, str]:
        """Returns the pairs of Meta for an instance of this inventory."""
        return {META_OWNER: self.name, META_MARK: str(self._mark(place))}

    def release_marks(self, place: Place) -> dict[str, str]:
        """Returns the pairs of Meta for an instance that this inventory releases."""
        return {META_RELEASED: str(self._mark(place))}

    def _mark(self, place: Place) -> Mark:
        return Mark(inventory=self.inventory, revision=self.revision, place=place.digest)
