import ast
import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopoiesis.policy import library
from autopoiesis.policy.language import policy_hash, verify
from autopoiesis.synthesizer.candidates import Result, Scored
from autopoiesis.synthesizer.mutation import operators, vocabulary
from autopoiesis.synthesizer.mutation.scaffold import scaffold
from autopoiesis.synthesizer.mutation.trees import numbers, sites
from autopoiesis.synthesizer.probes import run
from autopoiesis.synthesizer.proposers.base import Task
from autopoiesis.synthesizer.proposers.mutator import Mutator, mutate

LIBRARY = [library.source(name) for name in library.names("dispatch")]
LOOP = '''"""A loop with a score."""
API = 1
WEIGHT = 0.5


def prioritize(request, ctx):
    return request.arrival


def route(request, replicas, ctx):
    best, least = 0, math.inf
    for r in replicas:
        score = r.predicted_ttft + WEIGHT * r.running
        if score < least:
            best, least = r.index, score
    return Assign(best)
'''


def scored(source, fitness=1.0):
    return Scored(policy_hash(source, "dispatch"), source, "dispatch", "library", result=Result(fitness))


@given(st.integers(0, 2**32), st.sampled_from([*LIBRARY, LOOP]))
@settings(max_examples=25, deadline=None)
def test_generations_of_mutants_verify_compile_and_end(seed, source):
    rng = Random(seed)
    for _ in range(4):
        mutant = mutate(source, "dispatch", rng, LIBRARY[:3])
        if mutant is None:
            return
        source, note = mutant
        assert note
        assert verify(source, "dispatch", complete=True).ok
        probed(source)  # decides in 150 states within its fuel, or says what broke


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_policies_from_scratch_verify(seed):
    tree, note = scaffold(Random(seed))
    assert note
    assert verify(ast.unparse(ast.fix_missing_locations(tree)), "dispatch", complete=True).ok


def test_the_same_seed_gives_the_same_mutant():
    first, again, other = (mutate(LOOP, "dispatch", Random(seed), LIBRARY) for seed in (5, 5, 6))
    assert first == again
    assert first != other


async def test_a_task_decides_the_drafts_and_their_parents():
    parents = [scored(source) for source in LIBRARY]
    task = Task(scope="s", kind="dispatch", incumbent=parents[0], parents=parents, best=parents[0], seed=3)
    drafts = await Mutator().propose(task, 30)
    assert drafts == await Mutator().propose(task, 30)
    assert len({policy_hash(d.source, "dispatch") for d in drafts}) > 20
    assert {p for d in drafts for p in d.parents} <= {p.hash for p in parents}
    assert {d.origin for d in drafts} == {"mutator"}


@pytest.mark.parametrize("operator", [operator for operator, _ in operators.DISPATCH])
def test_each_operator_gives_valid_policies_that_decide_otherwise(operator):
    mates = [ast.parse(mate) for mate in LIBRARY]
    changed = 0
    for source in [LOOP, *LIBRARY]:
        for seed in range(2):
            tree = ast.parse(source)
            if operator(tree, Random(seed), mates) is not None:
                text = ast.unparse(ast.fix_missing_locations(tree))
                assert verify(text, "dispatch", complete=True).ok, text
                changed += not changed and probed(text) != probed(source)
    assert changed


@pytest.mark.parametrize(
    "table", [vocabulary.TERMS, vocabulary.FILTERS, vocabulary.ORDERS, vocabulary.HOLDS, vocabulary.REJECTS]
)
def test_every_phrase_is_an_expression_of_the_language(table):
    frame = "API = 1\ndef prioritize(request, ctx):\n    return 0.0\ndef route(request, replicas, ctx):\n"
    for name, phrase in table.items():
        text = ast.unparse(operators.write(phrase, Random(1), "r"))
        use = f"    xs = [({text}) for r in replicas]\n    return HOLD if len(xs) > 9 else Assign(0)\n"
        assert verify(frame + use, "dispatch", complete=True).ok, name


def probed(source, **traits):
    asked = {"source": source, "workflows": False, "apart": False} | traits
    return json.loads(run(json.dumps(asked).encode()))


@pytest.mark.parametrize(
    ("trait", "keys", "scores"),
    [
        ("workflows", ("request.workflow.attained", "request.workflow.age"), ("r.inflight", "r.inflight")),
        ("apart", ("0.0", "0.0"), ("r.inflight", "r.kv_used_tokens")),
    ],
)
def test_what_only_some_traffic_or_fleets_show_counts_there_alone(trait, keys, scores):
    frame = """API = 1
def prioritize(request, ctx):
    return 0.0 if request.workflow is None else {key}
def route(request, replicas, ctx):
    return Assign(0)
def place_decode(request, replicas, ctx):
    return Assign(min([r for r in replicas if r.role == "decode"], key=lambda r: {score}).index)
"""
    texts = [frame.format(key=key, score=score) for key, score in zip(keys, scores, strict=True)]
    plain = [probed(text) for text in texts]
    assert plain[0] == plain[1]
    seen = [probed(text, **{trait: True}) for text in texts]
    assert not any(found["broken"] for found in (*plain, *seen))
    assert seen[0]["behaviour"] != seen[1]["behaviour"]


def test_sites_are_scores_with_their_direction():
    text = """
def prioritize(request, ctx):
    return max(request.waited, 1.0)
def route(request, replicas, ctx):
    a = min(replicas, key=lambda r: (r.waiting, r.running))
    b = max(replicas, key=lambda r: r.inflight)
    for r in replicas:
        value = r.price * 2.0
        if value > 3.0:
            pass
        rank = r.uptime
        if rank >= value:
            value = rank
    return Assign(a.index)
"""
    found = [(ast.unparse(s.expression), s.sign) for s in sites(ast.parse(text))]
    assert found == [("r.waiting", 1), ("r.running", 1), ("r.inflight", -1), ("r.uptime", -1)]


def test_numbers_leave_alone_what_is_no_weight():
    text = "API = 1\nW = 0.5\ndef route(request, replicas, ctx):\n    return Assign(replicas[0].index, -1, 1) if 2.0 > W / max(W, 1) else (7 % 3)"
    assert [n.value for n in numbers(ast.parse(text))] == [0.5, 2.0]
