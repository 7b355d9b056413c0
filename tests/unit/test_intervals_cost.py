"""The paper's cost model: what its formulas must hold for any figures, and the figures it prints."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.policy.api import Replicas
from autopoiesis.simulator.intervals import Assumptions, CostModel, demand, pool
from autopoiesis.simulator.intervals.cost import batches, deployment, pcie_factor, shape_of
from autopoiesis.simulator.intervals.paper import qwen
from autopoiesis.simulator.intervals.roofline import Device, Replica
from autopoiesis.simulator.intervals.traces import Load, pool_of

H100 = pool(pool_of("H100"), 32)
SIZES = ("1.5B", "3B", "7B", "14B", "32B", "72B")
sizes = st.sampled_from(SIZES)
counts = st.integers(1, 500)


def model(size, concurrency=64, prompt=512, output=1024):
    return demand(0, qwen(size), Load(concurrency, prompt, output))


@pytest.mark.parametrize(("size", "gigabytes"), [("72B", 145.4), ("14B", 29.5), ("7B", 15.2)])
def test_weights_are_those_the_paper_prints(size, gigabytes):
    assert model(size).weight_bytes / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize(("size", "seconds"), [("72B", 27.2), ("7B", 4.2)])
def test_moves_cost_what_its_tables_charge(size, seconds):
    models = (model(size),)
    old, new = [Replicas(0, "H100", 4, 2)], [Replicas(0, "H100", 8, 1)]
    assert CostModel().reconfigure_time(models, (H100,), old, new) == pytest.approx(seconds, abs=0.03)


@given(st.floats(1e9, 1e12), st.floats(1e9, 1e12))
def test_small_models_load_slower_per_byte_within_the_printed_range(one, other):
    small, large = sorted((one, other))
    assert 11.5 >= pcie_factor(small) >= pcie_factor(large) >= 5.3


def test_only_models_that_change_are_moved_and_batches_move_nothing():
    cost, models = CostModel(), (model("7B"), demand(1, qwen("72B"), Load(8, 512, 512)))
    old = [Replicas(0, "H100", 1, 2, 16), Replicas(1, "H100", 8, 2, 4)]
    same = [
        Replicas(1, "H100", 8, 1, 9),
        Replicas(1, "H100", 8, 1, 2),
        Replicas(0, "H100", 1, 2, 99, share=1.0),
    ]
    light = [Replicas(0, "H100", 1, 3, 16), Replicas(1, "H100", 8, 2, 4)]
    assert deployment(old) == deployment(same)
    assert cost.reconfigure_time(models, (H100,), old, same) == 0
    assert cost.reconfigure_time(models, (H100,), old, light) == pytest.approx(
        2 * cost.transfer_time(models[0], H100)
    )


@given(
    sizes, st.sampled_from((1, 2, 4, 8)), counts, st.integers(1, 4000), st.integers(1, 4000), st.booleans()
)
def test_more_work_never_takes_less_time(size, tp, batch, prompt, output, sharded):
    cost = CostModel(Assumptions(shard_attention=sharded))
    base = cost.latency(model(size, 1, prompt, output), H100, tp, batch)
    assert base > 0
    for more in (
        cost.latency(model(size, 1, prompt, output), H100, tp, batch + 1),
        cost.latency(model(size, 1, prompt + 1, output), H100, tp, batch),
        cost.latency(model(size, 1, prompt, output + 1), H100, tp, batch),
    ):
        assert more >= base * (1 - 1e-12)


@given(sizes, st.sampled_from((1, 4, 8)), counts, st.integers(1, 4000), st.integers(1, 4000))
def test_latency_is_prefill_and_decode(size, tp, batch, prompt, output):
    cost, view = CostModel(), model(size, 1, prompt, output)
    parts = cost.prefill_time(view, H100, tp, batch) + cost.decode_time(view, H100, tp, batch)
    assert cost.latency(view, H100, tp, batch) == pytest.approx(parts)


@given(sizes, st.integers(1, 64), st.integers(0, 600), st.integers(1, 300), st.sampled_from((1, 2, 8)))
def test_the_sum_over_decode_steps_is_that_of_single_steps(size, batch, prompt, output, tp):
    shape = shape_of(model(size))
    for device in (Device(989e12, 3.35e12, 450e9, 50e9, 8), Device(4e12, 3.35e12, 450e9, 50e9, 8)):
        replica = Replica(shape, device, tp, shard_attention=True)
        single = sum(replica.decode(batch, prompt + k, 1) for k in range(output))
        assert replica.decode(batch, prompt, output) == pytest.approx(single, rel=1e-9)


@given(sizes, st.integers(1, 64))
def test_sharding_attention_only_helps_and_not_alone(size, batch):
    sharded, whole = CostModel(), CostModel(Assumptions(shard_attention=False))
    view = model(size)
    assert sharded.latency(view, H100, 8, batch) <= whole.latency(view, H100, 8, batch)
    assert sharded.latency(view, H100, 1, batch) == whole.latency(view, H100, 1, batch)


def test_weights_above_four_fifths_of_the_memory_do_not_fit():
    cost = CostModel()
    assert [cost.fits(model("72B"), H100, tp) for tp in (1, 2, 4, 8)] == [False, False, True, True]
    assert cost.latency(model("72B"), H100, 2, 1) == math.inf


def test_where_the_kv_cache_is_checked_what_does_not_fit_is_served_in_waves():
    view = model("72B", 1, 8000, 8000)
    free, checked = CostModel(), CostModel(Assumptions(check_kv=True))
    assert checked.latency(view, H100, 4, 2) == free.latency(view, H100, 4, 2)
    assert checked.latency(view, H100, 4, 400) > 1.5 * free.latency(view, H100, 4, 400)
    assert not checked.fits(model("72B", 1, 5_000_000, 1), H100, 4)


@given(
    st.integers(0, 3000), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), min_size=1, max_size=5)
)
def test_a_plan_for_another_load_keeps_its_proportions_and_leaves_nobody_out(concurrency, groups):
    entries = [Replicas(0, "H100", 1, count, batch) for batch, count in groups]
    found = batches(concurrency, entries)
    held = sum(batch * entry.count for batch, entry in zip(found, entries, strict=True))
    assert held >= concurrency
    assert held < concurrency + sum(entry.count for entry in entries)
    whole = [batch for batch, _ in groups]
    if any(whole):
        assert all(batch == 0 for batch, planned in zip(found, whole, strict=True) if planned == 0)


def test_a_model_is_as_slow_as_its_slowest_group_and_lost_without_one():
    cost, view = CostModel(), model("7B", 40)
    both = [Replicas(0, "H100", 1, 1, 30), Replicas(0, "H100", 8, 1, 10)]
    assert cost.serve_time(view, (H100,), both) == cost.latency(view, H100, 1, 30)
    assert cost.serve_time(view, (H100,), [Replicas(1, "H100", 1, 1, 30)]) == math.inf
    assert cost.serve_time(view, (H100,), [Replicas(0, "B300", 1, 1, 30)]) == math.inf
    assert cost.serve_time(model("7B", 0), (H100,), []) == 0


def test_disaggregated_replicas_need_both_sides_and_take_as_long_as_the_slower():
    cost, view = CostModel(), model("7B", 64)
    prefill, decode = Replicas(0, "H100", 1, 2, 0, "prefill"), Replicas(0, "H100", 1, 2, 0, "decode")
    assert cost.serve_time(view, (H100,), [prefill]) == math.inf
    pipeline = cost.serve_time(view, (H100,), [prefill, decode])
    assert pipeline < cost.serve_time(view, (H100,), [Replicas(0, "H100", 1, 2)])
    assert pipeline > cost.serve_time(view, (H100,), [prefill, Replicas(0, "H100", 8, 2, 0, "decode")])
