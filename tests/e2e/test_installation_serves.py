"""The whole installation through the eyes of a client: the official library, the endpoints, one trace."""

import secrets

import httpx
import openai
import psutil
import pytest
from e2e_world import MODEL, until
from openai.types.chat import ChatCompletionMessageParam
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from otlp_receiver import OtlpReceiver
from prometheus_client.parser import text_string_to_metric_families

from autopoiesis.cli.installation import Installation

pytestmark = pytest.mark.xdist_group("installation")

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


def length(tokens: int) -> dict[str, object]:
    return {"simulate": {"output_tokens": tokens}}


@pytest.fixture
def client(router: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router}/v1", api_key="unused", max_retries=0)


def test_every_process_runs(installation: Installation) -> None:
    services = {"worker-a", "worker-b", "observer", "evaluator", "synthesizer", "router"}
    assert set(installation.pids()) == {"nats", "postgres", *services}
    assert all(psutil.pid_exists(pid) for pid in installation.running.services.values())


async def test_it_is_ready(whole: Installation, http: httpx.AsyncClient) -> None:
    assert (await http.get(f"{whole.running.router}/ready")).json() == {"ready": True, "missing": []}
    assert (await http.get(f"{whole.running.observer}/ready")).status_code == 200


def test_a_whole_chat_completion(client: openai.OpenAI) -> None:
    with client:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=50, extra_body=length(7)
        )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7


def test_a_streamed_chat_completion(client: openai.OpenAI) -> None:
    with (
        client,
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=50,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=length(20),
        ) as stream,
    ):
        chunks = list(stream)
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert len("".join(texts).split()) == 20
    assert len(texts) > 1, "a stream comes in pieces"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


def test_what_a_client_asks_wrong_is_its_own_error(client: openai.OpenAI) -> None:
    with client:
        with pytest.raises(openai.NotFoundError, match=f"served: {MODEL}"):
            client.chat.completions.create(model="nobody/nothing", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=0)


def test_models_are_listed(client: openai.OpenAI) -> None:
    with client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL


async def test_metrics_count_what_was_served(whole: Installation, http: httpx.AsyncClient) -> None:
    async def finished() -> float:
        text = (await http.get(f"{whole.running.router}/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "autopoiesis_router_requests_total" and sample.labels["outcome"] == "finished"
        )

    before = await finished()
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 10, **length(2)}
    for _ in range(3):
        (await http.post(f"{whole.running.router}/v1/chat/completions", json=body)).raise_for_status()
    assert await finished() == before + 3


async def test_one_request_is_one_trace(
    whole: Installation, http: httpx.AsyncClient, otlp: OtlpReceiver
) -> None:
    trace_id, ours = secrets.token_hex(16), secrets.token_hex(8)
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 64, "stream": True, **length(12)}
    answer = await http.post(
        f"{whole.running.router}/v1/chat/completions",
        json=body,
        headers={"traceparent": f"00-{trace_id}-{ours}-01"},
    )
    assert answer.text.endswith("data: [DONE]\n\n")
    await until(lambda: len(otlp.trace(trace_id)) >= 3)
    spans = {span.kind: span for span in otlp.trace(trace_id)}
    assert len(otlp.trace(trace_id)) == len(spans) == 3
    server, sent, worker = (
        spans[kind] for kind in (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_CONSUMER)
    )
    assert [server.service, sent.service] == ["autopoiesis-router"] * 2
    assert worker.service == "autopoiesis-worker"
    assert (server.parent_id, sent.parent_id, worker.parent_id) == (ours, server.span_id, sent.span_id)

    assert server.attributes["gen_ai.operation.name"] == "chat"
    assert server.attributes["gen_ai.request.model"] == MODEL
    assert server.attributes["gen_ai.request.max_tokens"] == 64
    assert server.attributes["gen_ai.usage.output_tokens"] == 12
    assert server.attributes["gen_ai.usage.input_tokens"] > 0
    assert server.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert server.attributes["gen_ai.response.id"] == answer.headers["x-request-id"]
    assert sent.attributes["messaging.destination.template"] == "infer.{replica}"
    assert sent.attributes["autopoiesis.replica"] == answer.headers["x-autopoiesis-replica"]
    assert worker.attributes["autopoiesis.replica"] == answer.headers["x-autopoiesis-replica"]
    assert worker.attributes["gen_ai.request.model"] == MODEL
    assert worker.attributes["gen_ai.usage.output_tokens"] == 12
