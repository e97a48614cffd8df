"""What a list from Consul proves. A real agent can't be made to let its index run backwards on demand."""

from __future__ import annotations

from registry_admin.consul import ServiceInstance
from registry_admin.consul.api import Reply
from registry_admin.discovery.belief import LOST_STATE_S, Belief, believe


def reply(*ids: str, index: int) -> Reply[list[ServiceInstance]]:
    data = [ServiceInstance(service="api", id=one, address="10.0.0.1", port=80) for one in ids]
    return Reply(data=data, index=index, known_leader=True, filtered_by_acls=False)


def hear(*replies: tuple[float, str, int], after_failure: bool = False) -> Belief:
    """Each is told at a time, with the instances' one-letter IDs and an index; `after_failure` is for the last."""
    belief = None
    for number, (now, ids, index) in enumerate(replies, 1):
        failed = after_failure and number == len(replies)
        belief = believe(belief, reply(*ids, index=index), now=now, after_failure=failed)
    assert belief is not None
    return belief


def ids(belief: Belief) -> str:
    return "".join(one.id for one in belief.instances)


def test_a_list_is_believed_also_when_it_is_shorter_or_empty():
    assert ids(hear((0, "ab", 7), (1, "b", 8))) == "b"
    assert ids(hear((0, "ab", 7), (1, "", 8))) == ""
    assert ids(hear((0, "", 7))) == ""


def test_what_a_lower_index_leaves_out_is_believed_in_for_a_minute():
    belief = hear((0, "ab", 70), (1, "", 3))
    assert ids(belief.at(1 + LOST_STATE_S)) == "ab"
    assert ids(belief.at(1.1 + LOST_STATE_S)) == ""


def test_who_registers_again_first_is_not_left_with_all_calls():
    belief = hear((0, "abc", 70), (1, "b", 3))
    assert sorted(ids(belief)) == ["a", "b", "c"]
    assert ids(belief.at(1.1 + LOST_STATE_S)) == "b"


def test_the_doubt_outlasts_an_index_that_has_overtaken_the_old_one():
    assert ids(hear((0, "a", 70), (1, "", 3), (2, "", 80))) == "a"
    assert ids(hear((0, "a", 70), (1, "", 3), (2 + LOST_STATE_S, "", 80))) == ""


def test_the_doubt_ends_when_all_are_back():
    belief = hear((0, "ab", 70), (1, "", 3), (2, "ab", 5))
    assert (ids(belief), belief.doubted_at) == ("ab", None)
    assert ids(hear((0, "ab", 70), (1, "", 3), (2, "ab", 5), (3, "a", 6))) == "a"


def test_who_is_back_and_taken_out_then_is_not_believed_in():
    belief = hear((0, "ab", 70), (1, "", 3), (2, "a", 5), (3, "", 6))
    assert ids(belief) == "b"


def test_a_second_loss_starts_the_minute_anew():
    belief = hear((0, "a", 70), (1, "", 30), (50, "", 3))
    assert ids(belief.at(50 + LOST_STATE_S)) == "a"


def test_nothing_at_all_after_consul_was_away_is_doubted_and_a_new_list_is_not():
    assert ids(hear((0, "ab", 70), (1, "", 90), after_failure=True)) == "ab"
    assert ids(hear((0, "ab", 70), (1, "cd", 90), after_failure=True)) == "cd"
