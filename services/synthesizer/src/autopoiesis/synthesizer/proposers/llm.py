"""The proposer that asks a language model: diffs or rewrites of strong parents, one repair round."""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from autopoiesis.policy.language import PolicyError, link, policy_hash, verify
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.edits import EditError, source_from
from autopoiesis.synthesizer.llm import Answer, LanguageModel, LlmError
from autopoiesis.synthesizer.prompt import Message
from autopoiesis.synthesizer.proposers.base import Draft, Task

log = logging.getLogger(__name__)

REWRITE_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Call:
    """One call for the record. `answer` is none where there was none; `candidate` the hash of what came of it."""

    messages: Sequence[Message]
    prompt_hash: str
    model: str
    answer: Answer | None
    candidate: str = ""
    error: str = ""


Record = Callable[[Call], Awaitable[None]]


class LlmProposer:
    """Drafts from a model, within `budget`; every call goes to `record`, answered or not."""

    name = "llm"

    def __init__(self, model: LanguageModel, budget: Budget, record: Record, *, failures: list[str]) -> None:
        """What is wrong with answers is appended to `failures`, for the next prompts."""
        self._model = model
        self._budget = budget
        self._record = record
        self._failures = failures

    async def propose(self, task: Task, count: int) -> Sequence[Draft]:
        rng = Random(f"{task.seed}:llm")
        drafts = []
        for _ in range(count):
            parent = task.parents[min(len(task.parents) - 1, int(rng.expovariate(1.0)))]
            asked = prompt.Request(task, parent, rewrite=rng.random() < REWRITE_SHARE)
            draft = await self._ask(prompt.messages(asked), parent, task)
            if draft is not None:
                drafts.append(draft)
        return drafts

    async def _ask(self, messages: list[Message], parent: Scored, task: Task) -> Draft | None:
        """One question and at most one repair round."""
        for _ in range(2):
            tokens, cost = self._model.worst_case(messages)
            if not self._budget.allows_call(tokens=tokens, cost=cost):
                return None
            answer = await self._call(messages)
            if answer is None:
                return None
            try:
                source = checked(source_from(answer.text, parent.source), parent.source, task)
            except (EditError, PolicyError, SyntaxError) as error:
                problem = str(error)
                self._failures.append(problem)
                await self._kept(messages, answer, error=problem)
                messages = prompt.repair(messages, answer.text, problem)
                continue
            await self._kept(messages, answer, candidate=policy_hash(source, task.kind))
            return Draft(source, "llm", (parent.hash,), _summary(answer.text))
        return None

    async def _call(self, messages: list[Message]) -> Answer | None:
        try:
            answer = await self._model.complete(messages, timeout_s=self._budget.left_s)
        except LlmError as error:
            log.warning("synthesizer: %s", error)
            self._budget.charge_call(tokens=0, cost=0.0)
            await self._kept(messages, None, error=str(error))
            return None
        self._budget.charge_call(tokens=answer.prompt_tokens + answer.completion_tokens, cost=answer.cost)
        return answer

    async def _kept(
        self,
        messages: Sequence[Message],
        answer: Answer | None,
        *,
        candidate: str = "",
        error: str = "",
    ) -> None:
        digest = hashlib.sha256(repr(messages).encode()).hexdigest()
        await self._record(Call(tuple(messages), digest, self._model.name, answer, candidate, error))


def checked(source: str, parent: str, task: Task) -> str:
    """The linked source. Raises PolicyError with every problem named."""
    report = verify(source, task.kind)
    if not report.ok:
        raise EditError(report.text())
    return link(source, task.kind, parent)


def _summary(answer: str) -> str:
    """The model's reason: its first line of prose."""
    for line in answer.splitlines():
        text = line.strip().strip("#*` ")
        if text and not text.startswith(("<", "=", "def ", "API")):
            return text[:200]
    return ""
