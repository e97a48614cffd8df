"""Instances that are offered after each list from Consul. A real agent's index can't be made to go back on demand."""

from __future__ import annotations

from registry_admin.consul import ServiceInstance
from registry_admin.consul.api import ConsulReply
from registry_admin.discovery.instances.last_known_good import LOST_STATE_S, LastKnownGood, merge_reply


def reply(*ids: str, index: int) -> ConsulReply[list[ServiceInstance]]:
    data = [ServiceInstance(service="api", id=instance_id, address="10.0.0.1", port=80) for instance_id in ids]
    return ConsulReply(data=data, index=index, known_leader=True, filtered_by_acls=False)


def merge(*replies: tuple[float, str, int], after_failure: bool = False) -> LastKnownGood:
    """Merges replies, each a time, the instances' one-letter IDs and an index; `after_failure` is for the last one."""
    merged = None
    for number, (now, letters, index) in enumerate(replies, 1):
        failed = after_failure and number == len(replies)
        merged = merge_reply(merged, reply(*letters, index=index), now=now, after_failure=failed)
    assert merged is not None
    return merged


def ids(last_known_good: LastKnownGood) -> str:
    return "".join(instance.id for instance in last_known_good.instances)


def test_merge_reply_shorter_or_empty_list_replaces_the_previous_one():
    assert ids(merge((0, "ab", 7), (1, "b", 8))) == "b"
    assert ids(merge((0, "ab", 7), (1, "", 8))) == ""
    assert ids(merge((0, "", 7))) == ""


def test_merge_reply_lower_index_keeps_missing_instances_for_a_minute():
    merged = merge((0, "ab", 70), (1, "", 3))
    assert ids(merged.at(1 + LOST_STATE_S)) == "ab"
    assert ids(merged.at(1.1 + LOST_STATE_S)) == ""


def test_merge_reply_lower_index_keeps_missing_instances_beside_registered_ones():
    merged = merge((0, "abc", 70), (1, "b", 3))
    assert sorted(ids(merged)) == ["a", "b", "c"]
    assert ids(merged.at(1.1 + LOST_STATE_S)) == "b"


def test_merge_reply_index_above_the_old_one_keeps_missing_instances_until_the_minute_ends():
    assert ids(merge((0, "a", 70), (1, "", 3), (2, "", 80))) == "a"
    assert ids(merge((0, "a", 70), (1, "", 3), (2 + LOST_STATE_S, "", 80))) == ""


def test_merge_reply_all_instances_reported_again_ends_the_doubt():
    merged = merge((0, "ab", 70), (1, "", 3), (2, "ab", 5))
    assert (ids(merged), merged.doubted_since) == ("ab", None)
    assert ids(merge((0, "ab", 70), (1, "", 3), (2, "ab", 5), (3, "a", 6))) == "a"


def test_merge_reply_drops_instance_deregistered_after_recovery():
    merged = merge((0, "ab", 70), (1, "", 3), (2, "a", 5), (3, "", 6))
    assert ids(merged) == "b"


def test_merge_reply_losses_of_state_in_doubt_do_not_restart_the_minute():
    merged = merge((0, "a", 70), (1, "", 30), (50, "", 3))
    assert ids(merged.at(1 + LOST_STATE_S)) == "a"
    assert ids(merged.at(1.1 + LOST_STATE_S)) == ""


def test_merge_reply_empty_list_after_each_of_many_failures_ends_with_the_minute():
    merged = merge((0, "a", 70))
    for number in range(4):
        merged = merge_reply(merged, reply(index=71), now=1 + 30 * number, after_failure=True)
    assert ids(merged) == ""


def test_merge_reply_after_failure_doubts_an_empty_list_only():
    assert ids(merge((0, "ab", 70), (1, "", 90), after_failure=True)) == "ab"
    assert ids(merge((0, "ab", 70), (1, "cd", 90), after_failure=True)) == "cd"
