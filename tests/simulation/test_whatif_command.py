"""`autopoiesis whatif` as its user sees it."""

import json
from pathlib import Path
from typing import Any

import pytest

from autopoiesis.cli.app import run

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def rows(count: int, step_s: int = 1) -> str:
    stamps = [divmod(n * step_s, 60) for n in range(count)]
    return HEADER + "".join(
        f"2023-11-16 18:{minute:02}:{second:02}.0000000,{300 + 37 * n % 900},{20 + 13 * n % 80}\n"
        for n, (minute, second) in enumerate(stamps)
    )


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "conv.csv"
    file.write_text(rows(240))
    return file


def ask(trace: Path, *more: str) -> int:
    fixed = [
        "--trace",
        str(trace),
        "--fleet",
        "1xL4",
        "--shipped",
        "none",
        "--policy",
        "random",
        "--processes",
        "1",
    ]
    return run(["whatif", *fixed, *more])


def test_json_has_every_policy_at_every_load(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (
        "--policy",
        "round_robin",
        "--load",
        "0.5,1",
        "--seeds",
        "2",
        "--slo",
        "ttft=1,tpot=100ms",
        "--json",
    )
    assert ask(trace, *options) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [(row["load"], row["rank"]) for row in found["rows"]] == [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)]
    assert {row["policy"] for row in found["rows"]} == {"random", "round_robin"}
    assert found["requests"] == 240
    assert found["objectives"] == "default: TTFT 1 s, TPOT 0.1 s"
    # One replica: every policy sends everything to it.
    assert [entry["group"] for entry in found["overall"]] == [1, 1]
    assert found["overall"][1]["gain_low"] == found["overall"][1]["gain_high"] == 0.0


def test_the_table_ranks_and_the_picture_is_drawn(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "answer.png"
    assert ask(trace, "--policy", "least_requests", "--load", "1", "2", "--plot", str(picture)) == 0
    shown = capsys.readouterr().out
    for words in (
        "240 requests",
        "load 1",
        "load 2",
        "over all loads",
        "No difference in goodput is beyond noise",
        "TTFT p50/p95/p99, s",
    ):
        assert words in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert ask(trace, "--plot", str(tmp_path / "answer.doc")) == 2
    assert "answer.doc" in capsys.readouterr().err


def test_a_bad_row_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(rows(2) + "2023-11-16 18:15:46,many,5\n")
    assert ask(file) == 2
    assert f"{file}:4: ContextTokens = 'many', must be a number" in capsys.readouterr().err


def test_failed_rows_are_dropped_or_kept_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "failed.csv"
    file.write_text(rows(60) + "2023-11-16 18:02:00,100,0\n")
    for how, requests in (("drop", 60), ("keep", 61)):
        assert ask(file, "--failed", how, "--json") == 0
        assert json.loads(capsys.readouterr().out)["requests"] == requests
    assert ask(file, "--failed", "error") == 2
    assert f"{file}:62: a failed request" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--seeds", "0"), "--seeds 0"),
        (("--seconds", "0.5"), "only 1 of the requests"),
        (("--warmup", "1000"), "the last arrival is at 239 s"),
        (("--model", "GPT-9"), "GPT-9"),
        (("--routers", "0"), "routers = 0"),
    ],
)
def test_what_makes_no_sense_is_told(
    trace: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], why: str
) -> None:
    assert ask(trace, *more) == 2
    assert why in capsys.readouterr().err


def test_spot_replicas_come_and_go(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spot = tmp_path / "spot.csv"
    spot.write_text("0,add,a\n60000,remove,a\n")
    slow = ask(trace, "--spot", "1xH100", "--membership", str(spot), "--json", "--slo", "tpot=12ms")
    assert slow == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert 0 < row["attainment"] < 0.5  # the H100 alone is that quick, and is there for a quarter of the time
