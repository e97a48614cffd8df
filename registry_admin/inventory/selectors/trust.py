"""Whether what Consul shows may be believed, by what it showed before."""

from __future__ import annotations

from registry_admin.consul.observe import Observation
from registry_admin.inventory.conf import conf
from registry_admin.inventory.models import ConsulContact, ObservedInstance

FEW = 3  # so many instances may well go all at once


def lost_state(observation: Observation) -> bool:
    """Whether our agent has forgotten what was registered: its node has another ID, or nothing of ours is left.

    At most two queries.
    """
    known_as = ConsulContact.objects.filter(pk=1, node=observation.node).values_list("node_id", flat=True).first()
    if known_as and known_as != observation.node_id:
        return True
    owner = conf.owner
    if any(instance.owner == owner for instance in observation.here.values()):
        return False
    return ObservedInstance.objects.filter(node=observation.node, owner=owner).count() > FEW


def doubt(observation: Observation) -> str:
    """Why the observation may be incomplete, or nothing. At most two queries, and none where all looks well.

    A token for some prefixes never sees all of Consul. That matters only where something of ours isn't seen any more.
    """
    if observation.filtered and (unseen := _unseen(observation)):
        return f"Consul has left out what the token may not read, and {unseen} instance(s) of ours aren't to be seen"
    if observation.here or observation.surely_empty:
        return ""
    if not ConsulContact.objects.filter(pk=1, node=observation.node, node_id=observation.node_id).exists():
        return ""
    before = ObservedInstance.objects.filter(node=observation.node).count()
    return f"the agent shows no instance at all, and had {before} at the last look" if before > FEW else ""


def _unseen(observation: Observation) -> int:
    ours = ObservedInstance.objects.filter(node=observation.node, owner=conf.owner).order_by()
    return sum(key not in observation.here for key in ours.values_list("consul_id", flat=True))
