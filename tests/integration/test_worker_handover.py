"""Prefill and decode apart, in simulated engines: what one computes and another goes on with."""

import asyncio

import msgspec
import pytest

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines.base import Broken, Ended, Output, Piece
from autopoiesis.worker.engines.perturbation import Noise
from autopoiesis.worker.engines.simulated import SimulatedEngine, SimulatedOptions
from autopoiesis.worker.layout import parse_layout

PROMPT_BYTES = 8000


def request(output: int, *, prefill_only: bool = False, **fields: object) -> Generate:
    body = {
        "messages": [{"role": "user", "content": "x" * PROMPT_BYTES}],
        "simulate": {"output_tokens": output},
    }
    return Generate(
        request_id="q",
        router="r",
        nth=1,
        model="llama-3.1-8b",
        endpoint="chat",
        body=msgspec.Raw(msgspec.json.encode(body)),
        stream=True,
        prompt_tokens=PROMPT_BYTES // 4,
        max_tokens=100,
        prefill_only=prefill_only,
        **fields,  # type: ignore[arg-type]
    )


async def engine(name: str, node: str = "n") -> SimulatedEngine:
    options = SimulatedOptions(noise=Noise(run_sigma=0.0, drift_sigma=0.0))
    started = SimulatedEngine(name, "llama-3.1-8b", "H100", 1, options, node=node)
    await started.start()
    return started


async def everything(engine: SimulatedEngine, asked: Generate) -> tuple[list[Piece], Output]:
    async with asyncio.timeout(30.0):
        outputs: list[Output] = [output async for output in engine.generate(asked)]
    return [output for output in outputs if isinstance(output, Piece)], outputs[-1]


async def computed(source: SimulatedEngine, output: int = 12) -> Ended:
    pieces, end = await everything(source, request(output, prefill_only=True))
    assert pieces == []
    assert isinstance(end, Ended)
    assert end.kv_transfer is not None
    assert end.finish_reason == "length"
    return end


async def test_the_answer_is_as_if_one_engine_had_made_it() -> None:
    source, target, alone = await engine("p"), await engine("d"), await engine("a")
    end = await computed(source)
    pieces, answer = await everything(target, request(12, kv_transfer=end.kv_transfer))
    expected, whole = await everything(alone, request(12))
    assert "".join(p.text for p in pieces) == "".join(p.text for p in expected)
    assert [i for p in pieces for i in p.token_ids] == [i for p in expected for i in p.token_ids]
    assert isinstance(answer, Ended)
    assert isinstance(whole, Ended)
    assert (answer.prompt_tokens, answer.output_tokens) == (whole.prompt_tokens, whole.output_tokens)
    assert target.stats().kv_used_tokens == source.stats().kv_used_tokens == 0


async def test_the_prompt_is_not_computed_again() -> None:
    source, target = await engine("p"), await engine("d")
    end = await computed(source)
    before = target._replica.layer_tokens
    await everything(target, request(12, kv_transfer=end.kv_transfer))
    assert target._replica.layer_tokens - before < PROMPT_BYTES // 4


@pytest.mark.parametrize("output", [1, 2])
async def test_short_answers(output: int) -> None:
    source, target = await engine("p"), await engine("d")
    end = await computed(source, output)
    pieces, answer = await everything(target, request(output, kv_transfer=end.kv_transfer))
    assert isinstance(answer, Ended)
    assert sum(p.tokens for p in pieces) == answer.output_tokens == output


async def test_a_client_may_leave_while_the_cache_is_on_its_way() -> None:
    source, target = await engine("p"), await engine("d", node="far")
    end = await computed(source)
    outputs = target.generate(request(12, kv_transfer=end.kv_transfer))
    target.cancel("q", "cancelled")
    assert [type(output) async for output in outputs] == [Broken]
    async with asyncio.timeout(30.0):
        await target.drain()
    _, answer = await everything(target, request(3, kv_transfer=end.kv_transfer))
    assert isinstance(answer, Ended)


async def test_words_of_another_engine_are_refused() -> None:
    target = await engine("d")
    words = msgspec.Raw(b'{"remote_engine_id": 7}')
    pieces, end = await everything(target, request(3, kv_transfer=words))
    assert pieces == []
    assert isinstance(end, Broken)
    assert "kv_transfer" in end.message
    await target.drain()


def test_roles_are_written_behind_the_gpu() -> None:
    specs = parse_layout("1xH100:prefill + 2xL40S/tp2:decode + 1xL4", node="n", model="m")
    assert [(spec.gpu, spec.tp, spec.role) for spec in specs] == [
        ("H100", 1, "prefill"),
        ("L40S", 2, "decode"),
        ("L40S", 2, "decode"),
        ("L4", 1, "mixed"),
    ]
