"""The proposer that asks a language model: diffs or rewrites of strong parents, one repair round."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from autopoiesis.policy.language import PolicyError, link, policy_hash, verify
from autopoiesis.synthesizer import prompt
from autopoiesis.synthesizer.budget import Budget
from autopoiesis.synthesizer.edits import EditError, source_from
from autopoiesis.synthesizer.llm import Answer, LlmError, Model
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

    def __init__(self, model: Model, budget: Budget, record: Record, *, failures: list[str]) -> None:
        """What is wrong with answers is appended to `failures`, for the next prompts."""
        self._model = model
        self._budget = budget
        self._record = record
        self._failures = failures

    async def propose(self, task: Task, count: int) -> Sequence[Draft]:
        """Asks `count` questions at the same time; what comes back is in the order of the questions."""
        rng = Random(f"{task.seed}:llm")
        asked = [self._question(task, rng) for _ in range(count)]
        answers = await asyncio.gather(*(self._ask(question) for question in asked))
        for _, problems in answers:
            self._failures += problems
        return [draft for draft, _ in answers if draft is not None]

    def _question(self, task: Task, rng: Random) -> prompt.Request:
        parent = task.parents[min(len(task.parents) - 1, int(rng.expovariate(1.0)))]
        return prompt.Request(task, parent, rewrite=rng.random() < REWRITE_SHARE, draw=rng.randrange(10_000))

    async def _ask(self, asked: prompt.Request) -> tuple[Draft | None, list[str]]:
        """One question and at most one repair round; what was wrong with answers."""
        task, parent, problems = asked.task, asked.parent, list[str]()
        messages = prompt.messages(asked)
        for _ in range(2):
            answer = await self._call(messages)
            if answer is None:
                break
            try:
                source = checked(source_from(answer.text, parent.source), parent.source, task)
            except (EditError, PolicyError, SyntaxError) as error:
                problems.append(str(error))
                await self._kept(messages, answer, error=problems[-1])
                messages = prompt.repair(messages, answer.text, problems[-1])
                continue
            await self._kept(messages, answer, candidate=policy_hash(source, task.kind))
            return Draft(source, "llm", (parent.hash,), _summary(answer.text)), problems
        return None, problems

    async def _call(self, messages: list[Message]) -> Answer | None:
        """An answer within the budget: the most that a call may use is reserved while it runs."""
        tokens, cost = self._model.worst_case(messages)
        if not self._budget.allows_call(tokens=tokens, cost=cost):
            return None
        self._budget.charge_call(tokens=tokens, cost=cost)
        try:
            answer = await self._model.complete(messages, timeout_s=self._budget.left_s)
        except LlmError as error:
            log.warning("synthesizer: %s", error)
            self._budget.settle(tokens=-tokens, cost=-cost)
            await self._kept(messages, None, error=str(error))
            return None
        used = answer.prompt_tokens + answer.completion_tokens
        self._budget.settle(tokens=used - tokens, cost=answer.cost - cost)
        return answer

    async def _kept(
        self,
        messages: Sequence[Message],
        answer: Answer | None,
        *,
        candidate: str = "",
        error: str = "",
    ) -> None:
        digest = prompt.digest(messages)
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
