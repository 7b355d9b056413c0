"""Where replicas go: everything wanted is somewhere, nothing has more GPUs than there are, what may stay stays."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.fleet import DesiredReplica
from autopoiesis.router.planner.placement import (
    Kind,
    PlacementError,
    Wanted,
    changes,
    kind_of,
    kinds_of,
    place,
)

nodes = st.dictionaries(
    st.sampled_from("abcd"), st.fixed_dictionaries({"H100": st.sampled_from((4, 8))}), min_size=1
)
wishes = st.dictionaries(
    st.builds(Kind, st.sampled_from(("m", "org/n")), st.just("H100"), st.sampled_from((1, 2, 4))),
    st.integers(0, 6),
    max_size=4,
)


def used(wanted: Wanted, node: str) -> int:
    return sum(replica.tp for replica in wanted[node])


def total(counts: dict[Kind, int]) -> int:
    return sum(kind.tp * count for kind, count in counts.items())


@given(nodes, wishes, wishes)
def test_every_plan_that_fits_in_number_is_placed_and_keeps_what_it_can(
    gpus: dict[str, dict[str, int]], first: dict[Kind, int], then: dict[Kind, int]
) -> None:
    there = sum(node["H100"] for node in gpus.values())
    assume(total(first) <= there)
    assume(total(then) <= there)
    before = place(first, {}, gpus)
    after = place(then, before, gpus)
    for node in gpus:
        assert used(after, node) <= gpus[node]["H100"]
    assert kinds_of(after) == Counter({kind: count for kind, count in then.items() if count})
    names = [replica.replica for replicas in after.values() for replica in replicas]
    assert len(set(names)) == len(names)
    assert place(then, after, gpus) == after


@given(nodes, wishes, st.integers(0, 3))
def test_adding_to_a_plan_moves_nothing_where_a_machine_has_room(
    gpus: dict[str, dict[str, int]], counts: dict[Kind, int], more: int
) -> None:
    kind = Kind("m", "H100", 1)
    assume(total(counts) + more <= sum(node["H100"] for node in gpus.values()))
    before = place(counts, {}, gpus)
    after = place({**counts, kind: counts.get(kind, 0) + more}, before, gpus)
    started, stopped = changes(before, after)
    assert (len(started), stopped) == (more, ())


def test_a_gpu_type_is_packed_anew_where_pieces_are_too_small() -> None:
    small = tuple(DesiredReplica(replica=f"a{i}", model="m", gpu="H100") for i in range(2))
    lone = DesiredReplica(replica="b0", model="m", gpu="L40S")
    before: Wanted = {"a": (small[0], lone), "b": (small[1],)}
    gpus = {"a": {"H100": 4, "L40S": 1}, "b": {"H100": 4}}
    counts = {Kind("m", "H100", 1): 2, Kind("m", "L40S", 1): 1, Kind("big", "H100", 4): 1}
    after = place(counts, before, gpus)
    assert kinds_of(after) == Counter(counts)
    assert lone in after["a"]


def test_what_no_machine_can_hold_is_named() -> None:
    with pytest.raises(PlacementError, match="no machine has 4 free H100 for a replica of m"):
        place({Kind("m", "H100", 4): 1}, {}, {"a": {"H100": 2}, "b": {"H100": 2}})


def test_names_tell_node_model_and_gpu() -> None:
    placed = place({Kind("org/model.1", "H100", 2): 2}, {}, {"n1": {"H100": 4}})
    first, second = placed["n1"]
    assert first.replica.startswith("n1-org-model-1-")
    assert first.replica.endswith("-h100-tp2-0")
    assert second.replica.endswith("-h100-tp2-1")
    assert kind_of(first) == kind_of(second)


def test_replicas_whose_gpus_have_gone_move_to_another_machine() -> None:
    counts = {Kind("m", "H100", 4): 2}
    before = place(counts, {}, {"a": {"H100": 8}, "b": {"H100": 8}})
    assert len(before["a"]) == 2
    after = place(counts, before, {"a": {"H100": 7}, "b": {"H100": 8}})
    assert after["a"] == before["a"][:1]
    assert [replica.replica for replica in after["b"]] == ["b-m-h100-tp4-0"]
