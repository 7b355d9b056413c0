"""The replica's interface: what the oracle comparison does not show."""

import math
from typing import Any

import pytest

from autopoiesis.simulator.engine import EngineConfig, Job, TooLongError
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.prefix import PrefixCache
from autopoiesis.simulator.replica import Replica
from autopoiesis.simulator.steptime import StepTime

STEPS = StepTime(gpu("H100"), model("Llama-3.1-8B"))


def engine(**changes: int) -> Replica:
    config: dict[str, Any] = {"kv_capacity_tokens": 100_000, **changes}
    return Replica(STEPS, EngineConfig(**config))


def test_one_request_alone() -> None:
    replica = engine()
    replica.submit(1.0, Job("a", 1000, 3))
    first, last = replica.advance(math.inf)
    prefill = STEPS.step([(1000, 0)], 0, 0, 1)
    assert (first.id, first.tokens, first.finished) == ("a", 1, False)
    assert first.time == pytest.approx(1.0 + prefill)
    decode = STEPS.step([], 1, 1001, 1) + STEPS.step([], 1, 1002, 1)
    assert (last.tokens, last.finished) == (2, True)
    assert last.time == pytest.approx(1.0 + prefill + decode)
    assert replica.next_event == math.inf


def test_a_chunked_prompt_takes_several_steps() -> None:
    replica = engine(max_batched_tokens=512)
    replica.submit(0.0, Job(1, 1200, 1))
    (only,) = replica.advance(math.inf)
    chunks = [(512, 0), (512, 512), (176, 1024)]
    expected = sum(STEPS.step([chunk], 0, 0, int(n == 2)) for n, chunk in enumerate(chunks))
    assert only.time == pytest.approx(expected)
    assert replica.steps == 3


def test_streaming_reports_tokens_as_time_passes() -> None:
    replica = Replica(STEPS, EngineConfig(kv_capacity_tokens=10_000), stream=True)
    replica.submit(0.0, Job("a", 100, 200))
    seen, now = 0, 0.0
    while replica.next_event < math.inf:
        now += 0.05
        for emission in replica.advance(now):
            seen += emission.tokens
            assert emission.time <= now
    assert seen == 200


def test_stats_in_the_middle_of_a_run() -> None:
    replica = engine(max_running=1)
    replica.submit(0.0, Job(1, 500, 100))
    replica.submit(0.0, Job(2, 700, 100))
    replica.advance(0.1)
    stats = replica.stats(0.1)
    assert (stats.running, stats.waiting, stats.queued_prefill_tokens) == (1, 1, 700)
    assert 500 < stats.kv_used_tokens < 600
    later = replica.stats(0.2)
    assert later.kv_used_tokens > stats.kv_used_tokens
    assert later.step_time == pytest.approx(STEPS.step([], 1, later.kv_used_tokens + 1, 1))


def test_cancel_frees_what_was_held() -> None:
    replica = engine()
    replica.submit(0.0, Job(1, 500, 10_000))
    replica.submit(0.0, Job(2, 500, 5))
    replica.advance(0.1)
    assert replica.cancel(0.11, 1)
    assert not replica.cancel(0.11, 1)
    ended = [e for e in replica.advance(math.inf) if e.finished]
    assert [e.id for e in ended] == []
    assert replica.stats(10.0).kv_used_tokens == 0


def test_restored_jobs_go_on_where_they_were() -> None:
    replica = engine()
    replica.restore(5.0, Job(1, 500, 20), 17)
    replica.restore(5.0, Job(2, 300, 20), 0)
    ended = {e.id: e.time for e in replica.advance(math.inf) if e.finished}
    first = STEPS.step([(300, 0)], 1, 517, 2)
    rest = STEPS.step([], 2, 518 + 301, 2) + STEPS.step([], 2, 519 + 302, 2)
    assert ended[1] == pytest.approx(5.0 + first + rest)
    assert replica.tokens_out == 3 + 20
    with pytest.raises(ValueError, match="before the first step"):
        replica.restore(9.0, Job(3, 5, 5), 1)


def test_restored_jobs_without_room_are_computed_again() -> None:
    replica = engine(kv_capacity_tokens=1600)
    replica.restore(0.0, Job(1, 800, 20), 10)
    replica.restore(0.0, Job(2, 800, 20), 10)
    stats = replica.stats(0.0)
    assert (stats.running, stats.waiting, stats.queued_prefill_tokens) == (1, 1, 810)
    assert {e.id for e in replica.advance(math.inf) if e.finished} == {1, 2}


def test_drop_all_names_the_lost() -> None:
    replica = engine(max_running=1)
    replica.submit(0.0, Job("a", 500, 100))
    replica.submit(0.0, Job("b", 500, 100))
    replica.advance(0.1)
    assert replica.drop_all() == ["a", "b"]
    assert replica.advance(math.inf) == []
    replica.submit(1.0, Job("a", 500, 1))
    assert [e.id for e in replica.advance(math.inf)] == ["a"]


@pytest.mark.parametrize(
    ("job", "error", "message"),
    [
        (Job(1, 0, 5), ValueError, "must be at least 1"),
        (Job(1, 5, 0), ValueError, "must be at least 1"),
        (Job(1, 90_000, 20_000), TooLongError, "exceed the KV cache of 100000"),
    ],
)
def test_impossible_jobs_are_refused(job: Job, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        engine().submit(0.0, job)


def test_an_id_is_in_use_until_its_end() -> None:
    replica = engine()
    replica.submit(0.0, Job(1, 5, 1))
    with pytest.raises(ValueError, match="already here"):
        replica.submit(0.0, Job(1, 5, 1))
    replica.advance(1.0)
    replica.submit(1.0, Job(1, 5, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_running": 0}, "max_running"),
        ({"max_batched_tokens": 8, "max_running": 9}, "below max_running"),
        ({"kv_capacity_tokens": 3}, "not even one block"),
        ({"prefix_block_tokens": 24}, "multiple of block_tokens"),
    ],
)
def test_limits_that_contradict_each_other(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(**changes)


def test_prefix_hits_skip_computation() -> None:
    replica = engine(prefix_block_tokens=64)
    replica.submit(0.0, Job(1, 640, 1, block_hashes=tuple(range(10))))
    cold = replica.advance(math.inf)[-1].time
    replica.submit(10.0, Job(2, 700, 1, block_hashes=tuple(range(10))))
    warm = replica.advance(math.inf)[-1].time - 10.0
    assert warm == pytest.approx(STEPS.step([(60, 640)], 0, 0, 1))
    assert warm < cold
    assert (replica.prefix_queries, replica.prefix_hits) == (1340, 640)


def test_perturbation_multiplies_runs() -> None:
    slow = Replica(STEPS, EngineConfig(kv_capacity_tokens=10_000), perturb=lambda: 2.0)
    plain = Replica(STEPS, EngineConfig(kv_capacity_tokens=10_000))
    for replica in (slow, plain):
        replica.submit(0.0, Job(1, 100, 20))
    assert slow.advance(math.inf)[-1].time == pytest.approx(2 * plain.advance(math.inf)[-1].time)


def test_cache_gives_up_its_oldest_blocks_first() -> None:
    cache = PrefixCache(unit=2)
    for block in (1, 2):
        cache.hold(block)
    cache.release([1, 2], anonymous=3)
    assert (cache.idle_blocks, cache.held_blocks) == (7, 0)
    cache.shrink(3)  # the three anonymous pages and one of block 2's go: block 2 cannot be found any more
    assert (1 in cache, 2 in cache) == (True, False)
    assert cache.idle_blocks == 3
    assert cache.match([1, 2], limit=9) == (1, 2)


def test_shared_blocks_stay_until_nobody_holds_them() -> None:
    cache = PrefixCache(unit=1)
    for _ in range(2):
        cache.hold(7)
    cache.release([7], anonymous=0)
    assert (cache.held_blocks, cache.idle_blocks) == (1, 0)
    cache.release([7], anonymous=0)
    assert (cache.held_blocks, cache.idle_blocks) == (0, 1)
