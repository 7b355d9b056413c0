"""Trace loaders: what they read, and what they refuse with file and line."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.simulator.workload import TraceError, load_trace
from autopoiesis.simulator.workload.spot import load_spot

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_azure_2023(tmp_path: Path, name: str) -> None:
    rows = "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    trace = load_trace(write(tmp_path, name, AZURE + rows))
    assert trace.arrival.tolist() == pytest.approx([0.0, 4.314579])
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert trace.output_tokens.tolist() == [44, 109]


def test_azure_2024_has_a_zone(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01.017335+00:00,2399,6\n"
    assert load_trace(write(tmp_path, "t.csv", AZURE + rows)).arrival[1] == pytest.approx(1.007405)


def test_unordered_rows_are_sorted(tmp_path: Path) -> None:
    trace = load_trace(
        write(tmp_path, "t.csv", "t_s,input_tokens,output_tokens\n2.0,20,2\n0.5,10,1\n"), failed="error"
    )
    assert trace.prompt_tokens.tolist() == [10, 20]


def test_mooncake_keeps_full_blocks(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 50, "hash_ids": [0, 1, 2]},
        {"timestamp": 2500, "input_length": 1600, "output_length": 5, "hash_ids": [0, 1, 7, 9]},
    ]
    trace = load_trace(write(tmp_path, "t.jsonl", "\n".join(json.dumps(row) for row in rows)))
    assert (trace.block_tokens, trace.block_hashes) == (512, ((0, 1), (0, 1, 7)))
    assert trace.arrival.tolist() == [0.0, 2.5]


def test_bailian_chats_are_sessions(tmp_path: Path) -> None:
    rows = [
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 32, "output_length": 5, "hash_ids": [4, 5]},
        {"chat_id": 2, "parent_chat_id": 1, "timestamp": 9.5, "input_length": 48, "output_length": 5, "hash_ids": [4, 5, 6]},
        {"chat_id": 3, "parent_chat_id": -1, "timestamp": 9.9, "input_length": 16, "output_length": 5, "hash_ids": [8]},
    ]  # fmt: skip
    trace = load_trace(write(tmp_path, "t.jsonl", "\n".join(json.dumps(row) for row in rows)))
    assert trace.session[0] == trace.session[1] != trace.session[2]
    assert trace.block_tokens == 16
    assert trace.arrival.tolist() == pytest.approx([0.0, 8.0, 8.4])


def test_failed_rows_are_dropped_kept_or_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path, "b.csv", BURST + "5,GPT-4,100,50,150,API log\n6,GPT-4,100,0,100,Conversation log\n"
    )
    dropped = load_trace(path)
    assert (len(dropped), dropped.dropped) == (1, 1)
    kept = load_trace(path, failed="keep")
    assert kept.censored.tolist() == [False, True]
    assert kept.classes == ("API log", "Conversation log")
    with pytest.raises(TraceError, match=r"b\.csv:3: a failed request"):
        load_trace(path, failed="error")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AZURE + "2023-11-16 18:15:46.68,374,44\nyesterday,1,1\n", r"t\.csv:3: TIMESTAMP = 'yesterday'"),
        (AZURE + "2023-11-16 18:15:46.68,374\n", r"t\.csv:2: 2 cells under 3 columns"),
        (AZURE + "2023-11-16 18:15:46.68,many,44\n", r"t\.csv:2: ContextTokens = 'many', must be a number"),
        (
            AZURE + "2023-11-16 18:15:46.68,1.5,44\n",
            r"t\.csv:2: ContextTokens = '1.5', must be a whole number",
        ),
        (
            AZURE + "2023-11-16 18:15:46.68,-4,44\n",
            r"t\.csv:2: ContextTokens = '-4', must be finite and at least 0",
        ),
        ("t_s,input_tokens,output_tokens\nnan,1,1\n", r"t\.csv:2: t_s = 'nan'"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": 3}',
            r"t\.csv:1: hash_ids must be",
        ),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": []}\n{broken',
            r"t\.csv:2: not JSON",
        ),
        ("when,what\n1,2\n", r"t\.csv:1: not a known trace format"),
        (AZURE, r"t\.csv: no usable request"),
    ],
)
def test_malformed_files_name_file_line_and_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_trace(write(tmp_path, "t.csv", text))


def test_files_that_are_not_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        load_trace(tmp_path / "none.csv")
    (tmp_path / "x.csv.gz").write_bytes(b"\x1f\x8bnot really")
    with pytest.raises(TraceError, match="not readable"):
        load_trace(tmp_path / "x.csv.gz")
    with pytest.raises(ValueError, match="unknown trace format 'excel'"):
        load_trace(tmp_path / "x.csv.gz", format="excel")
    with pytest.raises(ValueError, match="failed = 'maybe'"):
        load_trace(tmp_path / "x.csv.gz", failed="maybe")  # type: ignore[arg-type]


def agent_session(**first: object) -> str:
    call = {"t": 0.0, "type": "n", "in": 1280, "out": 100, "api_time": 5.0, "hash_runs": [[1, 20]], **first}
    inner = {"t": 1.0, "type": "n", "in": 640, "out": 10, "api_time": 1.0, "hash_runs": [[90, 10]]}
    follow = {"t": 12.0, "type": "n", "in": 1400, "out": 10, "api_time": 1.0, "hash_runs": [[1, 20], [50, 2]]}
    session = {
        "id": "a",
        "block_size": 64,
        "hash_id_scope": "local",
        "requests": [call, {"t": 6.0, "type": "subagent", "requests": [inner]}, follow],
    }
    return json.dumps(session)


def test_agentic_sessions_are_closed_loops(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", agent_session() + "\n" + agent_session())
    trace = load_trace(path, coarsen=4)
    assert len(trace) == 6
    first = trace.take([row for row in range(6) if trace.session[row] == 1])
    assert first.arrival.tolist() == [0.0, 7.0, 12.0]
    assert first.parent.tolist() == [-1, 0, 1]
    assert first.think_s.tolist() == [0.0, 2.0, 4.0]
    assert first.block_tokens == 256
    assert first.block_hashes is not None
    assert [len(row) for row in first.block_hashes] == [5, 2, 5]
    assert first.block_hashes[0][:5] == first.block_hashes[2][:5]


def test_agentic_calls_that_lack_a_field(tmp_path: Path) -> None:
    text = agent_session().replace('"in": 640, ', "")
    with pytest.raises(TraceError, match=r"a\.jsonl:1: a call lacks in"):
        load_trace(write(tmp_path, "a.jsonl", text))


CHAT = {
    "chat_id": 1,
    "parent_chat_id": -1,
    "timestamp": 3.5,
    "input_length": 40,
    "output_length": 5,
    "hash_ids": [1, 2],
}
WRONG: tuple[object, ...] = (
    None,
    "x",
    -1,
    0.5,
    10**30,
    float("inf"),
    True,
    [],
    {},
    [[1]],
    [["a", 1]],
    [[1, 10**12]],
    {"t": "x"},
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*above, key)
        yield from places(item, (*above, key))


@settings(deadline=None)
@given(st.sampled_from([("agentic", agent_session()), ("mooncake", json.dumps(CHAT))]), st.data())
def test_one_wrong_value_is_an_error_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, sample: tuple[str, str], data: st.DataObject
) -> None:
    name, good = sample
    row = json.loads(good)
    *way, last = data.draw(st.sampled_from(list(places(row))))
    holder = row
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(st.sampled_from(WRONG))
    path = write(tmp_path_factory.getbasetemp(), "wrong.jsonl", f"{good}\n{json.dumps(row)}\n")
    assert refusal(path, name) is None or "wrong.jsonl:2: " in str(refusal(path, name))


def refusal(path: Path, format_: str) -> TraceError | None:
    try:
        load_trace(path, format=format_)
    except TraceError as error:
        return error
    return None


@pytest.mark.parametrize(
    "text",
    [
        "0,add,a\n0,add,b\n5000,remove,a\n",
        '[0, "add", {"nodes": ["a", "b"]}]\n[2000, "no-op", {"nodes": []}]\n[3000, "migration", {"nodes": []}]\n[5000, "remove", {"nodes": ["a"]}]\n',
        "0,1\n0,2\n5000,1\n",
        "2021-12-11, 11:11:30, 2\n2021-12-11, 11:11:35, 1\n",
    ],
)
def test_spot_traces(tmp_path: Path, text: str) -> None:
    changes = load_spot(write(tmp_path, "s.csv", text))
    assert [(change.at, change.change) for change in changes] == [(0.0, "add"), (0.0, "add"), (5.0, "remove")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,remove,a\n", "a at 0 s: remove contradicts"),
        ("0,add,a\nsoon,add,b\n", r"s\.csv:2: time = 'soon'"),
        ("0,add,a,b\n", r"s\.csv:1: must be ms,add"),
        ('["now", "add", {"nodes": []}]\n', r"s\.csv:1: ms = 'now'"),
        ('[0, "explode", {"nodes": []}]\n', r"s\.csv:1: 'explode'"),
    ],
)
def test_spot_traces_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_spot(write(tmp_path, "s.csv", text))
