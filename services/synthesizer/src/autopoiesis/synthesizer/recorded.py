"""A cycle written down, so that it can be run again without a model: answers by prompt, results by policy."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from autopoiesis.simulator.intervals.job import PlanResult
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.llm import BYTES_PER_TOKEN, Answer, LlmError, Model
from autopoiesis.synthesizer.proposers.llm import Call


class Completion(NamedTuple):
    """A recorded answer, by the hash of its prompt and by `prompt.number` of it."""

    prompt: str
    number: str
    text: str


class Recording:
    """A folder with `completions.jsonl` (one answer a line, by the hash of its prompt) and runs by policy hash, a file per trace."""

    def __init__(self, folder: Path) -> None:
        self._completions = folder / "completions.jsonl"
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def completions(self) -> list[Completion]:
        """Answers, oldest first. Raises ValueError for a file that is broken."""
        if not self._completions.exists():
            return []
        rows = [json.loads(line) for line in self._completions.read_text().splitlines()]
        return [Completion(row["prompt"], row["number"], row["completion"]) for row in rows]

    def runs(self, name: str = "runs") -> dict[str, PlanResult]:
        """What policies did, by policy hash, scheduling seconds as measured then."""
        file = self._folder / f"{name}.json"
        if not file.exists():
            return {}
        return msgspec.json.decode(file.read_bytes(), type=dict[str, PlanResult])

    def keep_runs(self, results: Mapping[str, PlanResult], name: str = "runs") -> None:
        text = msgspec.json.format(msgspec.json.encode(dict(sorted(results.items()))), indent=0)
        (self._folder / f"{name}.json").write_bytes(text + b"\n")

    async def keep_call(self, call: Call) -> None:
        """Append an answered call, unless its answer came from a recording."""
        if call.answer is None or call.answer.model == RecordedModel.name:
            return
        row = {
            "prompt": call.prompt_hash,
            "number": prompt.number(call.messages),
            "model": call.answer.model,
            "candidate": call.candidate,
            "error": call.error,
            "completion": call.answer.text,
        }
        with self._completions.open("a") as file:
            file.write(json.dumps(row) + "\n")


class RecordedModel:
    """Answers from a recording; what was never asked then goes to `otherwise`, or is an LlmError without one.

    Without `otherwise` a prompt that is worded otherwise now, as the interface's description grows, gets the answer to the question
    of the same number; `reworded` counts those.
    """

    name = "recorded"

    def __init__(self, completions: Sequence[Completion], otherwise: Model | None = None) -> None:
        self._exact = {known.prompt: known.text for known in completions}
        self._numbered: dict[str, list[str]] = defaultdict(list)
        for known in completions:
            self._numbered[known.number].append(known.text)
        self._otherwise = otherwise
        self.reworded = 0

    def worst_case(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, float]:
        if self._otherwise is not None:
            return self._otherwise.worst_case(messages)
        return sum(len(m["content"]) for m in messages) // BYTES_PER_TOKEN, 0.0

    async def complete(
        self, messages: Sequence[Mapping[str, str]], *, timeout_s: float | None = None
    ) -> Answer:
        """The recorded answer to these messages. Raises LlmError."""
        asked = [dict(m) for m in messages]
        key, number = prompt.digest(asked), prompt.number(asked)
        text = self._exact.get(key)
        if text is None and self._otherwise is not None:
            return await self._otherwise.complete(messages, timeout_s=timeout_s)
        if text is None:
            if not self._numbered[number]:
                raise LlmError(f"no recorded answer to prompt {key[:12]}, question {number or 'unknown'}")
            text = self._numbered[number].pop(0)
            self.reworded += 1
        return Answer(text, self.name, 0, len(text) // BYTES_PER_TOKEN, 0.0, 0.0)
