"""From replays to numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.evaluator import scoring
from autopoiesis.evaluator.scoring import Replay
from autopoiesis.simulator.statistics import TooFewBlocksError


def replay(met: Any, *, load: float = 1.0, span: float = 20.0, **changes: Any) -> Replay:
    flags = np.asarray(met, np.bool_)
    count = len(flags)
    fields: dict[str, Any] = {
        "load": load,
        "seed": 1,
        "span_s": span,
        "arrival_s": np.linspace(0, span, count, endpoint=False),
        "klass": np.full(count, "interactive"),
        "gpu": np.full(count, "H100"),
        "met": flags,
        "rejected": np.zeros(count, np.bool_),
        "ttft_s": np.full(count, np.nan),
        "tpot_s": np.full(count, np.nan),
    }
    return Replay(**{**fields, **changes})


def test_goodput_counts_every_arrival_and_every_second() -> None:
    late = replay([True, True, False, False], rejected=np.array([False, False, True, False]))
    (score,) = scoring.scores([late, replay([True] * 4)])
    assert (score.goodput, score.attainment, score.rejected) == (6 / 40, 6 / 8, 1 / 8)
    assert (score.ttft_p95_s, score.tpot_p95_s) == (0.0, 0.0)


def test_scores_come_by_load_and_percentiles_leave_out_what_has_no_token() -> None:
    low = replay([True] * 4, load=0.9, ttft_s=np.array([0.1, 0.2, np.nan, 0.3]))
    high = replay([False] * 4, load=1.1)
    scores = scoring.scores([high, low])
    assert [score.load for score in scores] == [0.9, 1.1]
    assert scores[0].ttft_p95_s == pytest.approx(0.29)


@given(
    st.lists(st.tuples(st.floats(0, 19.999), st.booleans()), min_size=1, max_size=60),
    st.sampled_from([3.0, 5.0, 7.0, 50.0]),
)
def test_blocks_lose_no_request(rows: list[tuple[float, bool]], block_s: float) -> None:
    rows.sort()
    at, met = np.array([row[0] for row in rows]), [row[1] for row in rows]
    counted = scoring.blocks([replay(met, arrival_s=at), replay(met, arrival_s=at, load=2.0)], block_s)
    assert counted.sum() == 2 * sum(met)
    assert len(counted) == max(4, int(20 // block_s))


def test_a_block_keeps_its_loads_and_seeds_together() -> None:
    one = replay([True, False, True, True, True, True, False, False])
    assert scoring.blocks([one, one], 5.0).tolist() == [2, 4, 4, 0]
    with pytest.raises(TooFewBlocksError, match=r"7\.0 s of scored arrivals; at least 8 s"):
        scoring.blocks([replay([True], span=7.0)], 5.0)


def test_losses_are_the_worst_of_any_load_and_of_slices_both_served() -> None:
    names = np.array(["a", "a", "b", "b"])
    ours = [replay([True] * 4, klass=names), replay([False, False, True, True], klass=names, load=2.0)]
    theirs = [
        replay([True] * 4, klass=names),
        replay([True, False, False, True], klass=np.array(["a", "a", "c", "c"]), load=2.0),
    ]
    assert scoring.losses(ours, theirs, "klass") == {"a": 0.5, "b": 0.0}
    unserved = [replay([False] * 4, gpu=np.array(["", "", "L4", "L4"]))]
    assert scoring.losses(unserved, unserved, "gpu") == {"L4": 0.0}


def test_fuel_is_per_arrival() -> None:
    assert scoring.fuel_mean([replay([True] * 4, fuel=100), replay([True] * 6, fuel=300)]) == 40.0
