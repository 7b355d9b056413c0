"""A cycle written down, so that it can be run again without a model: answers by prompt, results by policy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from autopoiesis.simulator.intervals.job import PlanResult
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.llm import BYTES_PER_TOKEN, Answer, LlmError, Model
from autopoiesis.synthesizer.proposers.llm import Call


class Recording:
    """A folder with `completions.jsonl` (one answer a line, keyed by the hash of its prompt) and `runs.json` (by policy hash)."""

    def __init__(self, folder: Path) -> None:
        self._completions = folder / "completions.jsonl"
        self._runs = folder / "runs.json"
        folder.mkdir(parents=True, exist_ok=True)

    def completions(self) -> dict[str, str]:
        """Answers by prompt hash. Raises ValueError for a file that is broken."""
        if not self._completions.exists():
            return {}
        rows = [json.loads(line) for line in self._completions.read_text().splitlines()]
        return {row["prompt"]: row["completion"] for row in rows}

    def runs(self) -> dict[str, PlanResult]:
        """What policies did, by policy hash, scheduling seconds as measured then."""
        if not self._runs.exists():
            return {}
        return msgspec.json.decode(self._runs.read_bytes(), type=dict[str, PlanResult])

    def keep_runs(self, results: Mapping[str, PlanResult]) -> None:
        text = msgspec.json.format(msgspec.json.encode(dict(sorted(results.items()))), indent=0)
        self._runs.write_bytes(text + b"\n")

    async def keep_call(self, call: Call) -> None:
        """Append an answered call, unless its answer came from a recording."""
        if call.answer is None or call.answer.model == RecordedModel.name:
            return
        row = {
            "prompt": call.prompt_hash,
            "model": call.answer.model,
            "candidate": call.candidate,
            "error": call.error,
            "completion": call.answer.text,
        }
        with self._completions.open("a") as file:
            file.write(json.dumps(row) + "\n")


class RecordedModel:
    """Answers from a recording; what was never asked then goes to `otherwise`, or is an LlmError without one."""

    name = "recorded"

    def __init__(self, completions: Mapping[str, str], otherwise: Model | None = None) -> None:
        self._completions, self._otherwise = completions, otherwise

    def worst_case(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, float]:
        if self._otherwise is not None:
            return self._otherwise.worst_case(messages)
        return sum(len(m["content"]) for m in messages) // BYTES_PER_TOKEN, 0.0

    async def complete(
        self, messages: Sequence[Mapping[str, str]], *, timeout_s: float | None = None
    ) -> Answer:
        """The recorded answer to exactly these messages. Raises LlmError."""
        key = prompt.digest([dict(m) for m in messages])
        if key not in self._completions and self._otherwise is not None:
            return await self._otherwise.complete(messages, timeout_s=timeout_s)
        if key not in self._completions:
            raise LlmError(f"no recorded answer to prompt {key[:12]}")
        text = self._completions[key]
        return Answer(text, self.name, 0, len(text) // BYTES_PER_TOKEN, 0.0, 0.0)
