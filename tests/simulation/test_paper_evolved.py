"""What evolved on the paper's traces came out of the recorded loop, and still compiles."""

import json
from pathlib import Path

import pytest

from autopoiesis.policy.language import compile_policy, policy_hash

FOLDERS = sorted(
    path.parent
    for path in (Path(__file__).parents[2] / "benchmarks" / "paper" / "evolved").glob("*/lineage.json")
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_winner_is_an_answer_of_the_model_and_its_ancestors_lead_to_the_seeds(folder):
    told = json.loads((folder / "lineage.json").read_text())
    source = (folder / "winner.py").read_text()
    assert policy_hash(source, "plan") == told["winner"]
    compile_policy(source, "plan")
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert told["winner"] in {row["candidate"] for row in rows}
    seeds = {policy_hash(text, "plan") for text in [*told["asked"]["seeds"].values(), *told["asked"]["warm"]]}
    for policy in told["ancestors"].values():
        assert policy["hash"] in seeds or set(policy["parents"]) <= told["ancestors"].keys() | seeds
    assert len(rows) >= 20


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_answer_is_recorded_once_with_its_question(folder):
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert all("/" in row["number"] for row in rows)
    written = [row["candidate"] for row in rows if row["candidate"]]
    runs = json.loads((folder / "runs.json").read_text())
    assert set(written) <= runs.keys()
