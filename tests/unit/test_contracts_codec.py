"""Golden encodings: what these bytes say today, they must say tomorrow."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.contracts import codec
from autopoiesis.contracts.messages import fleet, infer, policy, telemetry, trace
from autopoiesis.contracts.slo import Objectives, SloClass, met
from autopoiesis.contracts.subjects import REGISTRY, Subject

GENERATE = infer.Generate(
    request_id="r-1",
    router="router-0",
    nth=7,
    model="Qwen/Qwen3-8B",
    endpoint="chat",
    body=msgspec.Raw(b'{"messages":[]}'),
    stream=True,
    prompt_tokens=12,
    max_tokens=64,
    deadline_s=30.0,
    block_hashes=(1, 2),
)
GOLDEN = {
    infer.Generate: (
        GENERATE,
        (
            b'{"request_id":"r-1","router":"router-0","nth":7,"model":"Qwen/Qwen3-8B","endpoint":"chat","body":{"messages":[]},'
            b'"stream":true,"prompt_tokens":12,"max_tokens":64,"deadline_s":30.0,"block_hashes":[1,2]}'
        ),
    ),
    infer.Chunk: (
        infer.Chunk(seq=0, text="hé", tokens=1, token_ids=(42,)),
        '{"type":"chunk","seq":0,"text":"hé","tokens":1,"token_ids":[42]}'.encode(),
    ),
    infer.Finished: (
        infer.Finished(
            seq=1, finish_reason="stop", prompt_tokens=3, output_tokens=2, body=msgspec.Raw(b'{"id":"x"}')
        ),
        (
            b'{"type":"finished","seq":1,"finish_reason":"stop","prompt_tokens":3,"output_tokens":2,'
            b'"body":{"id":"x"}}'
        ),
    ),
    infer.Failed: (
        infer.Failed(seq=3, code="invalid_request", message="too long", param="messages"),
        b'{"type":"failed","seq":3,"code":"invalid_request","message":"too long","param":"messages","output_tokens":0,"status":0,"leaving":false}',
    ),
    fleet.DesiredState: (
        fleet.DesiredState(
            node="n0",
            lease_epoch=2,
            revision=9,
            replicas=(fleet.DesiredReplica(replica="n0-0", model="m", gpu="H100", tp=2),),
        ),
        (
            b'{"node":"n0","lease_epoch":2,"revision":9,"replicas":[{"replica":"n0-0","model":"m","gpu":"H100","tp":2,'
            b'"role":"mixed","max_running":0}]}'
        ),
    ),
    trace.SnapshotReady: (
        trace.SnapshotReady(
            scope="local/m",
            snapshot="ab",
            sealed="cd",
            start_unix_s=1.0,
            cut_unix_s=2.0,
            end_unix_s=3.0,
            arrivals=10,
            sealed_arrivals=5,
            cause="drift",
        ),
        (
            b'{"scope":"local/m","snapshot":"ab","sealed":"cd","start_unix_s":1.0,"cut_unix_s":2.0,"end_unix_s":3.0,"arrivals":10,'
            b'"sealed_arrivals":5,"cause":"drift"}'
        ),
    ),
    policy.Activation: (
        policy.Activation(
            scope="local/m",
            kind="dispatch",
            epoch=4,
            hash="ff",
            source="x",
            api=1,
            cause="operator: try",
            at_unix_s=5.5,
        ),
        (
            b'{"scope":"local/m","kind":"dispatch","epoch":4,"hash":"ff","source":"x","api":1,"cause":"operator: try","at_unix_s":5.5,'
            b'"name":""}'
        ),
    ),
    telemetry.StepBatch: (
        telemetry.StepBatch(
            replica="n0-0",
            incarnation="i",
            batch=1,
            model="m",
            gpu="H100",
            tp=1,
            records=(
                telemetry.StepRecord(
                    at_unix_s=1.0, duration_s=0.01, prefill_tokens=3, decode_sequences=2, kv_tokens=9
                ),
            ),
        ),
        (
            b'{"replica":"n0-0","incarnation":"i","batch":1,"model":"m","gpu":"H100","tp":1,"records":[{"at_unix_s":1.0,'
            b'"duration_s":0.01,"prefill_tokens":3,"decode_sequences":2,"kv_tokens":9,"steps":1}]}'
        ),
    ),
}


@pytest.mark.parametrize("message", GOLDEN, ids=lambda m: m.__name__)
def test_encoding_is_pinned(message: type[msgspec.Struct]) -> None:
    value, data = GOLDEN[message]
    assert codec.encode(value) == data
    again = codec.decode(message, data)
    assert codec.encode(again) == data


def test_replies_are_told_apart_by_their_tag() -> None:
    assert isinstance(codec.decode(infer.Reply, codec.encode(GOLDEN[infer.Failed][0])), infer.Failed)
    assert isinstance(codec.decode(infer.Reply, codec.encode(GOLDEN[infer.Chunk][0])), infer.Chunk)
    with pytest.raises(codec.ContractError, match="later"):
        codec.decode(infer.Reply, b'{"type":"later","seq":0}')


def test_raw_parts_of_replies_arrive_as_they_were_sent() -> None:
    delta = b'{"tool_calls":[{"index":0}]}'
    chunk = codec.decode(infer.Reply, codec.encode(infer.Chunk(seq=0, delta=msgspec.Raw(delta))))
    assert bytes(chunk.delta) == delta
    assert codec.decode(infer.Reply, codec.encode(infer.Chunk(seq=1))).delta is None


def test_unknown_fields_are_ignored() -> None:
    assert codec.decode(infer.Cancel, b'{"request_id":"a","colour":"blue"}') == infer.Cancel(request_id="a")


def test_a_missing_field_is_named_with_the_subject() -> None:
    with pytest.raises(codec.ContractError, match=r"infer\.n0\.cancel is not a Cancel: .*`request_id`"):
        codec.decode(infer.Cancel, b"{}", where="infer.n0.cancel")


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(codec.ContractError, match=r"Expected `str`, got `int` - at `\$.request_id`"):
        codec.decode(infer.Cancel, b'{"request_id":5}')


@pytest.mark.parametrize("subject", REGISTRY, ids=lambda s: s.pattern)
def test_what_a_policy_governs_carries_its_scope_and_kind(subject: Subject[Any]) -> None:
    fields = {field.name for field in msgspec.structs.fields(subject.message)}
    governed: set[str] = set()
    if subject.pattern.startswith("policy."):
        governed = {"scope", "kind"}
    elif subject.pattern.startswith(("trace.", "plan.")):
        governed = {"scope"}
    assert governed <= fields
    assert governed <= set(subject.tokens)


times = st.none() | st.floats(0, 100)


@given(ttft=times, tpot=times, ttft_slo=times, tpot_slo=times)
def test_only_finished_requests_with_a_first_token_meet_anything(
    ttft: float | None, tpot: float | None, ttft_slo: float | None, tpot_slo: float | None
) -> None:
    assert not met(ttft, tpot, ttft_slo_s=ttft_slo, tpot_slo_s=tpot_slo, finished=False)
    assert not met(None, tpot, ttft_slo_s=ttft_slo, tpot_slo_s=tpot_slo, finished=True)
    if ttft is not None:
        assert met(ttft, tpot, ttft_slo_s=None, tpot_slo_s=None, finished=True)
        assert met(ttft, tpot, ttft_slo_s=ttft, tpot_slo_s=tpot, finished=True)
        assert not met(ttft + 1, tpot, ttft_slo_s=ttft, tpot_slo_s=None, finished=True)


def test_the_default_class_must_exist() -> None:
    with pytest.raises(ValueError, match=r"'gold' is not among the classes \(batch\)"):
        Objectives(classes={"batch": SloClass()}, default="gold")
