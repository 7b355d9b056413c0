"""The comparison of agentic policies runs on any trace of its format, and its policies do what their names say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "agentic" / "run.py"
LAST = """API = 1
def prioritize(request, ctx):
    return 0.0 - request.arrival
def route(request, replicas, ctx):
    free = [r for r in replicas if r.role == "prefill" and r.queued_prefill_tokens == 0]
    return Assign(free[0].index) if free else HOLD
"""


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """Twenty sessions of three calls; every other one has long prompts."""
    file = tmp_path / "sessions.jsonl"
    with file.open("w") as out:
        for number in range(20):
            tokens = 6400 if number % 2 else 640
            calls = [
                {"t": 9.0 * n, "type": "n", "in": tokens * (n + 1), "out": 80, "api_time": 8.0, "hash_runs": [[0, tokens * (n + 1) // 64]]}
                for n in range(3)
            ]  # fmt: skip
            row = {"id": str(number), "block_size": 64, "hash_id_scope": "local", "requests": calls}
            out.write(json.dumps(row) + "\n")
    return file


def test_policies_meet_the_same_workflows_and_are_ranked(sessions: Path, tmp_path: Path) -> None:
    mine, told, picture = tmp_path / "last_come.py", tmp_path / "told.json", tmp_path / "agentic.png"
    mine.write_text(LAST)
    words = [
        "--trace", str(sessions), "--scale", "1", "--rate", "20", "--seeds", "1", "--model", "Llama-3.1-8B", "--policy", str(mine),
        "--fleet", "1xL40S:prefill + 1xH100:prefill + 1xL40S:decode + 1xH100:decode", "--json", str(told), "--picture", str(picture),
    ]  # fmt: skip
    done = subprocess.run([sys.executable, str(RUN), *words], capture_output=True, text=True, check=True)
    assert "last_come" in done.stdout
    rows = {row["policy"]: row for row in json.loads(told.read_text())["rows"]}
    assert len(rows) == 8
    assert all(
        row["workflows"] == 20 and row["req50"] <= row["req95"] <= row["req99"] for row in rows.values()
    )
    assert rows["HexAGenT, joint"]["req95"] < rows["call FCFS, balanced"]["req95"]
    assert rows["HexAGenT, joint"]["mean"] < rows["last_come"]["mean"]
    assert picture.read_bytes().startswith(b"\x89PNG")
