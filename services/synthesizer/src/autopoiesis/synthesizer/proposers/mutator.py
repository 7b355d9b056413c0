"""The offline proposer: seeded changes of library and archive policies. Needs no network and no model."""

import ast
import copy
from collections.abc import Sequence
from random import Random

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.policy.language import verify
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.mutation.operators import DISPATCH, PLAN
from autopoiesis.synthesizer.mutation.scaffold import scaffold
from autopoiesis.synthesizer.mutation.trees import after_docstring
from autopoiesis.synthesizer.proposers.base import Draft, Task

ATTEMPTS = 12
"""Tries at one candidate before it is given up."""
MAX_NODES = 900
"""Syntax nodes of a result: beyond it a policy is growth, not thought, and costs fuel."""
SCAFFOLD_SHARE = 0.15


def mutate(source: str, kind: Kind, rng: Random, mates: Sequence[str] = ()) -> tuple[str, str] | None:
    """A changed, valid policy and what was changed; None if nothing valid came of `ATTEMPTS` tries.

    The same arguments and the same state of `rng` give the same result.
    """
    tree = ast.parse(source)
    others = [ast.parse(mate) for mate in mates]
    operators, weights = zip(*(DISPATCH if kind == "dispatch" else PLAN), strict=True)
    for _ in range(ATTEMPTS):
        changed = copy.deepcopy(tree)
        chosen = rng.choices(operators, weights, k=rng.choice((1, 1, 2, 3)))
        notes = [note for operator in chosen if (note := operator(changed, rng, others)) is not None]
        if notes and (text := _finished(changed, kind, "; ".join(notes))) is not None:
            return text, "; ".join(notes)
    return None


def _finished(tree: ast.Module, kind: Kind, note: str) -> str | None:
    """The text of a valid tree that is not overgrown."""
    start = after_docstring(tree.body)
    tree.body[:start] = [ast.Expr(ast.Constant(note[0].upper() + note[1:] + "."))]
    text = ast.unparse(ast.fix_missing_locations(tree)) + "\n"
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES or not verify(text, kind, complete=True).ok:
        return None
    return text


class Mutator:
    """Proposes mutations of the task's parents, and now and then a policy from scratch."""

    name = "mutator"

    async def propose(self, task: Task, count: int) -> Sequence[Draft]:
        rng = Random(f"{task.seed}:{task.scope}:{task.kind}")
        drafts = (self._draft(task, rng) for _ in range(count))
        return [draft for draft in drafts if draft is not None]

    def _draft(self, task: Task, rng: Random) -> Draft | None:
        if task.kind == "dispatch" and rng.random() < SCAFFOLD_SHARE:
            tree, note = scaffold(rng)
            text = _finished(tree, task.kind, note)
            return Draft(text, "mutator", note=note) if text else None
        parent = _choose(task.parents, rng)
        mates = [other.source for other in task.parents if other.hash != parent.hash]
        result = mutate(parent.source, task.kind, rng, mates)
        return Draft(result[0], "mutator", (parent.hash,), result[1]) if result else None


def _choose(parents: Sequence[Scored], rng: Random) -> Scored:
    """The better its rank, the likelier: weight 1 / (1 + rank)."""
    return rng.choices(parents, [1 / (1 + rank) for rank in range(len(parents))])[0]
