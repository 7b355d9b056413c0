"""Layouts, acknowledgements and the way to a desired state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts.messages.fleet import DesiredReplica, DesiredState
from autopoiesis.worker.acknowledged import ROUTERS_KEPT, Acknowledged
from autopoiesis.worker.layout import ReplicaSpec, gpus_used, parse_layout
from autopoiesis.worker.reconcile import DesiredStateError, check, next_step, supersedes
from autopoiesis.worker.settings import WorkerSettings


def parse(text: str) -> list[ReplicaSpec]:
    return parse_layout(text, node="n", model="m")


def test_a_layout_names_its_replicas() -> None:
    assert [spec.name for spec in parse("2xH100 + 1xL40S:tp2+h100")] == [
        "n-h100-0",
        "n-h100-1",
        "n-l40s-0",
        "n-h100-2",
    ]
    assert gpus_used(parse("2xH100 + 3xL40S:tp2")) == {"H100": 2, "L40S": 6}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("2xH100 ++ L40S", "cannot read ''"),
        ("H100 L40S!", "cannot read"),
        ("3xB17", "unknown GPU type 'B17'"),
    ],
)
def test_a_bad_layout_says_which_part(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        parse(text)


def test_attached_without_urls_is_refused() -> None:
    with pytest.raises(ValueError, match=r"worker\.attach"):
        WorkerSettings(engine="attached")


def test_a_router_restarting_under_its_name_keeps_the_highest() -> None:
    seen = Acknowledged()
    for router, nth in (("a", 1), ("b", 7), ("a", 3), ("a", 2)):
        seen.note(router, nth)
    assert seen.snapshot() == {"a": 3, "b": 7}


def test_routers_long_silent_are_forgotten() -> None:
    seen = Acknowledged()
    seen.note("kept", 1)
    for i in range(ROUTERS_KEPT):
        seen.note(f"r{i}", 1)
        seen.note("kept", i)
    assert len(seen.snapshot()) == ROUTERS_KEPT
    assert "kept" in seen.snapshot()
    assert "r0" not in seen.snapshot()


def desired(*replicas: DesiredReplica, lease_epoch: int = 1, revision: int = 1) -> DesiredState:
    return DesiredState(node="n", lease_epoch=lease_epoch, revision=revision, replicas=replicas)


def wanted(name: str, gpu: str = "H100", tp: int = 1, max_running: int = 0) -> DesiredReplica:
    return DesiredReplica(replica=name, model="m", gpu=gpu, tp=tp, max_running=max_running)


def test_older_leases_are_refused_and_old_revisions_ignored() -> None:
    held = desired(lease_epoch=3, revision=2)
    assert supersedes(held, None)
    assert supersedes(desired(lease_epoch=3, revision=3), held)
    assert supersedes(desired(lease_epoch=4, revision=0), held)
    assert not supersedes(held, held)
    with pytest.raises(DesiredStateError, match="lease epoch 2 refused: epoch 3"):
        supersedes(desired(lease_epoch=2, revision=9), held)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (desired(wanted("a"), wanted("a")), "'a' twice"),
        (desired(wanted("a", tp=4)), "needs 4 x H100; node n has 2"),
    ],
)
def test_what_the_node_cannot_have_is_refused(state: DesiredState, why: str) -> None:
    with pytest.raises(DesiredStateError, match=why):
        check(state, {"H100": 2})


def test_a_changed_replica_leaves_before_it_returns() -> None:
    old, new = ReplicaSpec.of(wanted("a")), ReplicaSpec.of(wanted("a", max_running=8))
    first = next_step([new], {"a": old}, [], {"H100": 1})
    assert (first.retire, first.start, first.done) == (("a",), (), False)
    assert next_step([new], {"a": old}, ["a"], {"H100": 1}) == type(first)((), (), False)
    assert next_step([new], {}, [], {"H100": 1}) == type(first)((), (new,), True)


SPECS = st.lists(
    st.builds(
        wanted,
        st.sampled_from("abcde"),
        st.sampled_from(["H100", "L40S"]),
        st.integers(1, 2),
        st.integers(0, 1),
    ),
    max_size=5,
    unique_by=lambda replica: replica.replica,
)


@given(before=SPECS, after=SPECS, finish_order=st.randoms())
def test_every_desired_state_is_reached_within_the_gpus(
    before: list[DesiredReplica], after: list[DesiredReplica], finish_order: object
) -> None:
    gpus = {"H100": 4, "L40S": 4}
    goal = [ReplicaSpec.of(replica) for replica in after]
    running = {replica.replica: ReplicaSpec.of(replica) for replica in before}
    for state in (list(running.values()), goal):
        if any(count > gpus[kind] for kind, count in gpus_used(state).items()):
            return
    retiring: set[str] = set()
    for _ in range(20):
        step = next_step(goal, running, retiring, gpus)
        retiring |= set(step.retire)
        running |= {spec.name: spec for spec in step.start}
        assert all(count <= gpus[kind] for kind, count in gpus_used(list(running.values())).items())
        if step.done:
            break
        if retiring:
            gone = finish_order.choice(sorted(retiring))  # type: ignore[attr-defined]
            retiring.discard(gone)
            del running[gone]
    assert running == {spec.name: spec for spec in goal}
