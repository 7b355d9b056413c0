"""The simulated engine in real time, without a bus."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import msgspec
import pytest

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines.base import Broken, Ended, Output, Piece
from autopoiesis.worker.engines.jobs import drawn_length
from autopoiesis.worker.engines.perturbation import Noise, Perturbation
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions
from autopoiesis.worker.engines.words import word_ids, words

WaitFor = Callable[..., Awaitable[None]]
EXACT = Noise(run_sigma=0.0, drift_sigma=0.0)


def request(
    name: str = "q1",
    *,
    prompt_bytes: int = 400,
    output: int | None = 5,
    max_tokens: int = 1000,
    stream: bool = True,
    priority: int = 0,
    block_hashes: tuple[int, ...] = (),
    **extra: object,
) -> Generate:
    body: dict[str, object] = {"messages": [{"role": "user", "content": "x" * prompt_bytes}], **extra}
    if output is not None:
        body["simulate"] = {"output_tokens": output}
    return Generate(
        request_id=name,
        router="r",
        nth=1,
        model="llama-3.1-8b",
        endpoint="chat",
        body=msgspec.Raw(msgspec.json.encode(body)),
        stream=stream,
        prompt_tokens=prompt_bytes // 4,
        max_tokens=max_tokens,
        priority=priority,
        block_hashes=block_hashes,
    )


async def engine(**options: object) -> SimulatedEngine:
    started = SimulatedEngine("r", "llama-3.1-8b", "H100", 1, SimulatedOptions(noise=EXACT, **options))  # type: ignore[arg-type]
    await started.start()
    return started


async def everything(outputs: object) -> tuple[str, int, Output]:
    """Text, tokens and end."""
    text, tokens, end = "", 0, None
    async for output in outputs:  # type: ignore[attr-defined]
        if isinstance(output, Piece):
            text += output.text
            tokens += output.tokens
        else:
            assert end is None
            end = output
    assert end is not None
    return text, tokens, end


async def test_an_answer_goes_on_where_another_replica_left_it() -> None:
    first, second = await engine(), await engine()
    whole = await everything(first.generate(request(output=40)))
    ids = word_ids("q1", 0, 15)
    resumed = msgspec.structs.replace(request(output=40), resume_token_ids=ids)
    text, tokens, end = await everything(second.generate(resumed))
    assert words("q1", 0, 15) + text == whole[0]
    assert tokens == 25
    assert isinstance(end, Ended)
    assert isinstance(whole[2], Ended)
    assert (end.prompt_tokens, end.output_tokens) == (whole[2].prompt_tokens, whole[2].output_tokens)


async def test_a_request_yields_its_words_and_how_it_ended() -> None:
    running = await engine()
    text, tokens, end = await everything(running.generate(request(output=7)))
    assert len(text.split()) == tokens == 7
    assert isinstance(end, Ended)
    assert (end.finish_reason, end.prompt_tokens, end.output_tokens) == ("stop", 100, 7)
    assert end.first_token_s > 0
    again, _, _ = await everything(running.generate(request(output=7)))
    assert again == text


async def test_a_limit_cuts_the_answer() -> None:
    _, tokens, end = await everything((await engine()).generate(request(output=50, max_tokens=4)))
    assert tokens == 4
    assert isinstance(end, Ended)
    assert end.finish_reason == "length"


async def test_lengths_nobody_gave_are_drawn_by_seed_and_request() -> None:
    wanted = min(drawn_length(3, "q1"), 20)
    _, tokens, _ = await everything((await engine(seed=3)).generate(request(output=None, max_tokens=20)))
    assert tokens == wanted
    assert len({drawn_length(3, f"q{i}") for i in range(50)}) > 20
    assert [drawn_length(3, f"q{i}") for i in range(50)] != [drawn_length(4, f"q{i}") for i in range(50)]


async def test_ignoring_the_end_runs_to_the_limit() -> None:
    _, tokens, _ = await everything(
        (await engine()).generate(request(output=None, max_tokens=9, ignore_eos=True))
    )
    assert tokens == 9


@pytest.mark.parametrize(
    ("asked", "param", "message"),
    [
        (request(prompt_bytes=4 * 200_000), "messages", "200000 tokens"),
        (request(messages="hi"), "messages", "Expected"),
    ],
    ids=["too long", "malformed"],
)
async def test_what_cannot_run_is_refused(asked: Generate, param: str, message: str) -> None:
    _, _, end = await everything((await engine()).generate(asked))
    assert isinstance(end, Broken)
    assert (end.code, end.param) == ("invalid_request", param)
    assert message in end.message


async def test_stats_count_a_request_at_once() -> None:
    running = await engine()
    outputs = running.generate(request(output=100_000, max_tokens=100_000))
    seen = running.stats()
    assert seen.running + seen.waiting == 1
    assert seen.kv_capacity_tokens > 100_000
    assert seen.step_model is not None
    running.cancel("q1", "cancelled")
    assert isinstance((await everything(outputs))[2], Broken)


async def test_cancelling_frees_the_engine(wait_for: WaitFor) -> None:
    running = await engine()
    outputs = running.generate(request(output=100_000, max_tokens=100_000))
    assert isinstance(await anext(outputs), Piece)
    assert running.stats().kv_used_tokens > 0
    running.cancel("q1", "deadline")
    _, _, end = await everything(outputs)
    assert isinstance(end, Broken)
    assert end.code == "deadline"
    assert end.output_tokens > 0
    await wait_for(lambda: running.stats().kv_used_tokens == running.stats().running == 0)
    await asyncio.wait_for(running.drain(), 1)


async def test_urgent_requests_overtake(wait_for: WaitFor) -> None:
    running = await engine(max_running=1)
    ends: list[str] = []

    async def run(name: str, priority: int, output: int) -> None:
        await everything(running.generate(request(name, priority=priority, output=output)))
        ends.append(name)

    tasks = [asyncio.create_task(run("first", 1, 20))]
    await wait_for(lambda: running.stats().running == 1)
    tasks += [asyncio.create_task(run("later", 1, 2)), asyncio.create_task(run("urgent", 0, 2))]
    await asyncio.gather(*tasks)
    assert ends == ["first", "urgent", "later"]


async def test_known_prefixes_are_not_computed_again() -> None:
    running = await engine()
    for name in ("q1", "q2"):
        await everything(running.generate(request(name, prompt_bytes=4096, block_hashes=(1, 2, 3))))
    seen = running.stats()
    assert (seen.prefix_queries, seen.prefix_hits) == (2048, 768)


async def test_steps_are_sampled(wait_for: WaitFor) -> None:
    running = await engine()
    await everything(running.generate(request(output=40)))
    running.stats()
    samples = running.steps()
    assert samples
    for sample in samples:
        assert 0 < sample.duration_s < 1
        assert sample.steps >= 1
        assert sample.prefill_tokens + sample.decode_sequences > 0
    assert running.steps() == []


async def test_loading_takes_its_time_and_tells() -> None:
    loading = SimulatedEngine("r", "llama-3.1-8b", "H100", 1, SimulatedOptions(noise=EXACT, load_s=0.05))
    load = asyncio.create_task(loading.start())
    await asyncio.sleep(0)
    assert loading.stats().state == "loading"
    assert loading.stats().progress < 1
    _, _, end = await everything(loading.generate(request()))
    assert isinstance(end, Broken)
    assert end.code == "unavailable"
    await load
    assert loading.changed.is_set()
    assert loading.stats().state == "ready"


async def test_stopping_ends_what_runs() -> None:
    running = await engine()
    outputs = running.generate(request(output=100_000, max_tokens=100_000))
    await running.stop()
    _, _, end = await everything(outputs)
    assert isinstance(end, Broken)
    assert end.code == "unavailable"
    assert running.stats().state == "stopped"


def test_noise_is_seeded_and_drifts_slowly() -> None:
    now = 0.0
    noise = Noise(run_sigma=0.02, drift_sigma=0.1, drift_time_s=100.0)

    def draw(seed: str) -> list[float]:
        nonlocal now
        now = 0.0
        factors = Perturbation(noise, seed, lambda: now)
        drawn = []
        for _ in range(400):
            now += 5.0
            drawn.append(factors())
        return drawn

    first = draw("1/a")
    assert first == draw("1/a") != draw("1/b")
    assert all(0.5 < factor < 2 for factor in first)
    steps = [abs(b / a - 1) for a, b in pairwise(first)]
    assert sum(steps) / len(steps) < max(first) - min(first)


def test_without_noise_the_model_is_exact() -> None:
    factors = Perturbation(EXACT, "1/a", lambda: 0.0)
    assert {factors() for _ in range(5)} == {1.0}
