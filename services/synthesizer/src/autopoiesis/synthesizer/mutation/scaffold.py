"""Dispatch policies from scratch: a weighted score, perhaps a filter, a guard and a queue order."""

import ast
from random import Random

from autopoiesis.synthesizer.mutation import operators, vocabulary

_FRAME = '''"""{idea}"""
API = 1


def prioritize(request, ctx):
    return {order}


def route(request, replicas, ctx):
    best = min(replicas, key=lambda replica: {score})
    return Assign(best.index)
'''


def scaffold(rng: Random) -> tuple[ast.Module, str]:
    """A new policy and what it is made of."""
    score, terms = operators.weighted_sum(vocabulary.TERMS, rng, rng.randint(2, 5))
    order, orders = operators.weighted_sum(vocabulary.ORDERS, rng, rng.randint(1, 2))
    idea = f"Scores replicas by {', '.join(terms)}; queue by {', '.join(orders)}."
    tree = ast.parse(_FRAME.format(idea=idea, order=ast.unparse(order), score=ast.unparse(score)))
    notes = [f"new: {idea}"]
    for change, chance in ((operators.rank_first, 0.4), (operators.narrow, 0.5), (operators.guard, 0.2)):
        if rng.random() < chance and (note := change(tree, rng, ())):
            notes.append(note)
    return tree, "; ".join(notes)
