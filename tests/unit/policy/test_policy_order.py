"""Sets have no order that a policy could see: same decisions, faults and fuel under every hash seed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from grown import policies
from hypothesis import HealthCheck, Phase, given, settings

from autopoiesis.policy import library

SCRIPT = Path(__file__).with_name("hash_seeds.py")
GROWN = 24
ROUTE = """\
LABELS = {"H100", "L40S", "L4", "A100", "B200"}
def prioritize(request, ctx):
    return 0.0
def route(request, replicas, ctx):
    gpus = set([r.gpu for r in replicas])
    pairs = {(r.gpu, r.node) for r in replicas}
    nodes = frozenset(str_of(r) for r in replicas)
"""
HELPER = """
def str_of(r):
    return "odd" if r.node % 2 else r.gpu
"""
BODIES = [
    "return Assign(len(pairs) % len(replicas), priority=len(gpus | gpus))",
    "return Assign(0 if gpus == LABELS else 1)",
    "return Assign([r.index for r in replicas if r.gpu in gpus and 'odd' in nodes][0])",
    "groups = {}\n    for r in replicas:\n        groups.setdefault(r.gpu, []).append(r.index)\n    return Assign(list(groups.values())[-1][0])",
    "seen = {nodes: 1, frozenset(['odd']): 2}\n    return Assign(seen[nodes], priority=len(seen))",
    "return Assign(max([gpus, LABELS, nodes], key=len) == LABELS and 1 or 0)",
    "ordered = sorted([gpus, LABELS, nodes], key=lambda s: (len(s), 'odd' in s))\n    return Assign(len(ordered[0]) % 8)",
    "return Assign(1 if [gpus] < [LABELS] else 0)",
    "return Assign(0 if max(gpus, nodes) == gpus else 1)",
    "xs = gpus\n    return Assign(len(list(xs)))",
    "xs = gpus\n    for gpu in xs:\n        if gpu == 'L4':\n            return HOLD\n    return REJECT",
    "a, b, c = LABELS\n    return Assign(0)",
    "xs = [1]\n    xs += gpus\n    return Assign(len(xs) % 8)",
    "xs = gpus\n    return HOLD if min(xs) == 'H100' else REJECT",
    "xs = nodes\n    return HOLD if tuple(xs)[0] == 'odd' else REJECT",
    "xs = nodes\n    return HOLD if any(xs) else REJECT",
    "xs, ys = gpus, replicas\n    return HOLD if [x for x, y in zip(xs, ys)] else REJECT",
    "xs = gpus\n    return HOLD if xs.pop() == 'H100' else REJECT",
    "d = {'a': 1}\n    xs = pairs\n    d.update(xs)\n    return Assign(d['H100'])",
    "d = {}\n    return Assign(d[gpus])",
    "xs = gpus.copy()\n    xs.add('x')\n    return Assign(len(xs) % 8)",
    "xs = gpus.copy()\n    return HOLD if list(xs)[0] == 'H100' else REJECT",
    "xs = nodes.copy()\n    return HOLD if [x for x in xs][0] == 'odd' else REJECT",
    "xs = LABELS.copy()\n    xs.update(['odd'])\n    return HOLD if list(xs)[0] == 'odd' else REJECT",
]


def decided(sources: list[str], seed: str) -> list[object]:
    answer = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(sources),
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[object] = json.loads(answer.stdout)
    return found


def grown() -> list[str]:
    found: list[str] = []

    @settings(
        max_examples=GROWN,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(policies())
    def collect(source: str) -> None:
        found.append(source)

    collect()
    return found


@pytest.fixture(scope="module")
def sources() -> list[str]:
    shipped = [library.source(name) for name in library.names("dispatch", every=True)]
    return [*(f"{ROUTE}    {body}\n{HELPER}" for body in BODIES), *shipped, *grown()]


def test_hash_seeds_decide_nothing(sources: list[str]) -> None:
    first, *others = (decided(sources, seed) for seed in ("0", "1", "4000000000"))
    for other in others:
        for source, one, two in zip(sources, first, other, strict=True):
            assert one == two, source
