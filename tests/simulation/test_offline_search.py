"""A search without services: repeatable by seed, resumable, honest about what it never saw."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from autopoiesis.cli.app import run
from autopoiesis.contracts.messages.policy import Origin
from autopoiesis.policy import library
from autopoiesis.simulator import SLO, Fleet, Trace, evaluate, evaluate_snapshot
from autopoiesis.simulator.api import objectives
from autopoiesis.simulator.calibrate import calibrated
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.requests.recorded import window_of
from autopoiesis.simulator.workload.generate import BATCH, INTERACTIVE, poisson
from autopoiesis.synthesizer.fitness import first_token
from autopoiesis.synthesizer.offline import Found, Search, evolve
from autopoiesis.synthesizer.proposers.base import Draft, Task
from autopoiesis.synthesizer.settings import LlmSettings

FLEET = "1xH100 + 2xL4"
GOAL = SLO(ttft_s=1.0, tpot_s=0.08)
SMALL = Search(candidates=6, population=3, loads=(1.0,), arrivals=250)
SEEDS = {name: name for name in ("least_requests", "power_of_two")}


@pytest.fixture(scope="module")
def traffic() -> Trace:
    return poisson(12.0, 60.0, mix=(INTERACTIVE, BATCH), seed=4)


def searched(traffic: Trace, folder: Path, search: Search = SMALL, **more: object) -> Found:
    return evolve(traffic, FLEET, GOAL, search, folder=folder, seeds=SEEDS, **more)  # type: ignore[arg-type]


def test_a_window_of_a_trace_is_served_as_the_trace_is(traffic: Trace) -> None:
    fleet = Fleet.parse("1xH100:prefill + 2xL40S:decode")
    goals = objectives(GOAL, traffic.classes)
    straight = evaluate("least_requests", traffic, fleet, goals)
    (again,) = evaluate_snapshot("least_requests", window_of(traffic, fleet, goals)).runs
    assert again.summary() == pytest.approx(straight.runs[0].summary(), nan_ok=True)
    slow = replace(gpu("H100").efficiency, weights=0.3)
    with pytest.raises(ValueError, match=r"not Llama-3\.1-8B on H100 as shipped"):
        window_of(traffic, calibrated(fleet, {"H100": slow}), goals)


def test_the_same_search_finds_the_same_and_goes_on_where_it_was(traffic: Trace, tmp_path: Path) -> None:
    first = searched(traffic, tmp_path / "a")
    assert first.winner is not None
    assert {one.arm for one in first.tried} == {"seed", "evolved"}
    journal = tmp_path / "a" / "replays.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) // 2])  # as a kill leaves it, in the middle of a line
    again = searched(traffic, tmp_path / "a")
    assert again.rows() == first.rows()
    assert sorted(journal.read_bytes().splitlines()) == sorted(whole.splitlines())
    more = searched(traffic, tmp_path / "a", replace(SMALL, candidates=12))
    assert more.rows()[: len(first.rows()) - 1] == first.rows()[:-1]
    with pytest.raises(ValueError, match=r"holds another search \(seed differ\)"):
        searched(traffic, tmp_path / "a", replace(SMALL, seed=1))


def test_its_files_tell_what_it_did(traffic: Trace, tmp_path: Path) -> None:
    found = searched(traffic, tmp_path)
    assert found.winner is not None
    assert found.holdout is not None
    assert found.holdout.policies[0] == "winner"
    assert {"round_robin", *SEEDS} <= set(found.holdout.policies)
    with (tmp_path / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["hash"] for row in rows] == [one.policy.hash for one in found.tried]
    assert float(rows[-1]["best"]) >= found.tried[0].best
    told = json.loads((tmp_path / "lineage.json").read_text())
    line = found.lineage()
    assert told["winner"] == line[0].hash == found.winner.hash
    assert all(parent in told["policies"] for policy in line for parent in policy.parents)
    assert (tmp_path / "winner.py").read_text() == found.winner.source


class Fixed:
    """A proposer of one's own: shipped policies, one a generation."""

    name = "fixed"

    def __init__(self, *names: str) -> None:
        self.left = list(names)
        self.asked: list[Task] = []

    async def propose(self, task: Task, count: int) -> Sequence[Draft]:
        self.asked.append(task)
        origin: Origin = "operator"
        return [Draft(library.source(self.left.pop(0)), origin, note="mine")] if self.left else []


def test_proposer_and_fitness_are_the_researchers(traffic: Trace, tmp_path: Path) -> None:
    mine = Fixed("least_predicted_ttft")
    search = replace(SMALL, objective=first_token, holdout=0.0, candidates=1)
    found = searched(traffic, tmp_path, search, proposers=[mine])
    assert [one.policy.title for one in found.tried if one.arm == "evolved"] == ["mine"]
    assert found.holdout is None
    told = mine.asked[0].situation.text()
    assert "`fitness` in this search is not goodput but this: The incumbent's 95th percentile" in told


@contextmanager
def endpoint(answers: list[str]) -> Iterator[str]:
    """An OpenAI-compatible endpoint that gives each answer once, then 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            message = {"role": "assistant", "content": answers.pop(0) if answers else ""}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps(
                {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            ).encode()
            self.send_response(200 if message["content"] else 503)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_a_model_is_asked_once_for_what_is_asked_again(traffic: Trace, tmp_path: Path) -> None:
    texts = [f"Because.\n```python\n{library.source(name)}```" for name in ("least_kv_tokens", "slo_triage")]
    search = replace(SMALL, candidates=2, population=1, calls=2, holdout=0.0)
    with endpoint(texts) as url:
        llm = LlmSettings(base_url=url, model="m")
        first = searched(traffic, tmp_path, search, llm=llm, proposers=())
    assert not texts
    assert [one.policy.origin for one in first.tried if one.arm == "evolved"] == ["llm", "llm"]
    again = searched(traffic, tmp_path, search, llm=llm, proposers=())  # nobody listens there any more
    assert again.rows() == first.rows()


def test_the_command_searches_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "conv.csv"
    rows = (
        f"2023-11-16 18:00:{n // 8:02}.{n % 8}250000,{300 + 137 * n % 1900},{20 + 13 * n % 80}\n"
        for n in range(400)
    )
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
    words = [
        "evolve", "--trace", str(trace), "--fleet", "1xL40S + 1xL4", "--folder", str(tmp_path / "run"), "--shipped", "none",
        "--policy", "least_requests", "--candidates", "2", "--population", "2", "--load", "1", "--slo", "ttft=1,tpot=60ms",
    ]  # fmt: skip
    picture = tmp_path / "fitness.png"
    assert run([*words, "--plot", str(picture), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["candidates"] == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(words) == 0
    assert "kept in" in capsys.readouterr().out
    assert run([*words, "--seed", "5"]) == 2
    assert "holds another search (seed differ)" in capsys.readouterr().err
    assert run([*words, "--start", "nope"]) == 2
    assert "--start nope: No such file or directory; give a file, or a shipped one" in capsys.readouterr().err
    assert run([*words, "--no-mutator"]) == 2
    assert "needs both --llm-url and --llm-model" in capsys.readouterr().err
