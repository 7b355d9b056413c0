"""Who leads, and what counts as noise."""

import math

import numpy as np
import pytest

from autopoiesis.simulator.ranking import Cell, Comparison

BLOCKS = 12
FIGURES = {"load": 1.0, "seed": 0.0, "goodput": 1.0, "attainment": 0.5, "e2e_s_p95": 4.0}


def cell(policy: str, met: np.ndarray, *, load: float = 1.0, seed: int = 0, **figures: float) -> Cell:
    return Cell(
        policy=policy,
        load=load,
        seed=seed,
        figures=FIGURES | figures,
        by_class={},
        by_gpu={},
        faults={},
        met=met.astype(np.int64),
        ttft_s=np.array([]),
    )


def comparison(**met: np.ndarray) -> Comparison:
    return Comparison(tuple(cell(name, counts) for name, counts in met.items()), span_s=120.0)


def groups(found: Comparison) -> dict[str, int | None]:
    return {standing.policy: standing.group for standing in found.ranking()}


def test_a_steady_difference_makes_a_group_and_a_wavering_one_does_not() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(80, 120, BLOCKS)
    wavering = base + np.where(
        np.arange(BLOCKS) % 2, 30, -36
    )  # below `twin` in all, and not beyond noise below `best`
    found = groups(
        comparison(best=base, twin=base - 1, steady_loss=base * 8 // 10, wavering=wavering, far=base // 3)
    )
    assert found == {"best": 1, "twin": 2, "wavering": 1, "steady_loss": 3, "far": 4}


def test_equal_policies_share_the_first_group() -> None:
    same = np.full(BLOCKS, 50)
    found = comparison(b=same, a=same)
    assert [(s.rank, s.policy, s.group) for s in found.ranking()] == [(1, "a", 1), (2, "b", 1)]
    assert found.gain("a", "b").high == 0.0


def test_more_policies_widen_the_intervals() -> None:
    rng = np.random.default_rng(2)
    best, other = rng.integers(90, 110, BLOCKS), rng.integers(80, 105, BLOCKS)
    losers = {f"loser{n}": best // 10 for n in range(20)}

    def width(found: Comparison) -> float:
        gain = next(s.against_best for s in found.ranking() if s.policy == "other")
        assert gain is not None
        return gain.high - gain.low

    assert width(comparison(best=best, other=other, **losers)) > width(comparison(best=best, other=other))


def test_a_short_window_has_a_ranking_and_no_groups() -> None:
    found = comparison(low=np.array([3]), high=np.array([5]))
    assert [(s.policy, s.group, s.against_best) for s in found.ranking()] == [
        ("high", None, None),
        ("low", None, None),
    ]
    assert math.isnan(found.rows()[1]["gain"])


def test_the_true_best_is_in_the_first_group_as_often_as_said() -> None:
    """Six policies, equally good, with noise of their own in each block: the first is left out in at most 5 % of windows."""
    rng = np.random.default_rng(3)
    left_out = 0
    for _ in range(60):
        base = rng.integers(60, 140, BLOCKS)
        met = {f"p{n}": rng.poisson(base) for n in range(6)}
        left_out += groups(comparison(**met))["p0"] != 1
    assert left_out <= 7  # 3 expected at most; more than 7 of 60 has a chance below 2 %


def test_loads_and_seeds_are_kept_apart_and_added_up() -> None:
    ones = np.ones(BLOCKS)
    found = Comparison(
        (
            cell("a", ones, load=0.5, goodput=1.0),
            cell("b", ones * 2, load=0.5, goodput=2.0),
            cell("a", ones * 9, load=1.0, goodput=9.0),
            cell("b", ones * 2, load=1.0, goodput=2.0, seed=1),
        ),
        span_s=120.0,
    )
    assert found.loads == (0.5, 1.0)
    assert [s.policy for s in found.at(0.5).ranking()] == ["b", "a"]
    assert [s.policy for s in found.ranking()] == ["a", "b"]
    assert found.ranking()[0].figures["goodput"] == 5.0
    assert [(row["load"], row["rank"], row["policy"]) for row in found.rows()] == [
        (0.5, 1, "b"), (0.5, 2, "a"), (1.0, 1, "a"), (1.0, 2, "b"),
    ]  # fmt: skip
    with pytest.raises(KeyError, match=r"0\.5, 1"):
        found.at(2.0)


def test_requests_that_outlast_a_block_are_told() -> None:
    found = Comparison(
        (cell("quick", np.ones(BLOCKS)), cell("slow", np.ones(BLOCKS), e2e_s_p95=30.0)), span_s=120.0
    )
    assert found.longer_than_blocks() == {"slow": 30.0}
    assert list(found.to_pandas()["policy"]) == ["quick", "slow"]
