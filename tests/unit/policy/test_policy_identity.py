"""Identity: what changes a policy's hash and what does not."""

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from golden import GOLDEN, record
from grown import policies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopoiesis.policy import library
from autopoiesis.policy.language import policy_hash
from autopoiesis.policy.language.identity import plain

BASE = "def prioritize(request, ctx):\n    return request.arrival\n\ndef route(request, replicas, ctx):\n    x = -1.5\n    return Assign(0) if x < 0 else HOLD\n"


@pytest.mark.parametrize(
    "same",
    [
        BASE.replace("\n\n", "\n# a comment\n\n\n"),
        BASE.replace("x = -1.5", "x = - 1.50"),
        BASE.replace("(request, ctx)", "(request: Request, ctx: 'DispatchContext') -> float"),
        BASE.replace("    x =", '    """What it does."""\n    x ='),
        BASE.replace("x = -1.5", "x: float = -1.5"),
        BASE.replace("Assign(0) if x < 0 else HOLD", "(Assign(0)\n        if (x < 0) else HOLD)"),
        '"""Title."""\nAPI = 1\nimport math\nfrom autopoiesis.policy import Assign\n' + BASE,
        "\n".join(reversed(BASE.split("\n\n"))),
    ],
)
def test_does_not_count(same: str) -> None:
    assert policy_hash(same, "dispatch") == policy_hash(BASE, "dispatch")


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("1.5", "1.25"),
        BASE.replace("-1.5", "1.5"),
        BASE.replace("Assign(0)", "Assign(False)"),
        BASE.replace("Assign(0)", "Assign(0.0)"),
        BASE.replace("<", "<="),
        BASE.replace("HOLD", "REJECT"),
        BASE.replace("x", "y"),
        "LIMIT = 1\n" + BASE,
    ],
)
def test_counts(other: str) -> None:
    assert policy_hash(other, "dispatch") != policy_hash(BASE, "dispatch")


def test_constants_side_by_side_are_those_of_two_lines() -> None:
    apart, together = "LOW = -1\nHIGH = 2.0 ** 3\n", "LOW, HIGH = -1, 2.0 ** 3\n"
    assert policy_hash(together + BASE, "dispatch") == policy_hash(apart + BASE, "dispatch")
    assert policy_hash(together + BASE, "dispatch") != policy_hash("LOW, HIGH = -1, 8.0\n" + BASE, "dispatch")


def reworded(source: str, how: int) -> str:
    """The same policy written otherwise."""
    match how:
        case 0:
            return ast.unparse(ast.parse(source))
        case 1:
            return re.sub(r"(?m)$", "  # as before", source)
        case 2:
            return re.sub(r"(?m)^( +)", lambda indent: indent[1] * 3, source).replace("\n", "\n\n")
        case 3:
            return re.sub(r"(?m)^(\s*)(a|b|c) = (.+)$", r"\1\2: float = (\3)", source)
    return re.sub(r"(?m)^( *)(def .*:)$", r'\1\2\n\1    """Words."""', source)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies(), st.integers(0, 4))
def test_formatting_comments_annotations_and_docstrings_do_not_count(source: str, how: int) -> None:
    assert policy_hash(reworded(source, how), "dispatch") == policy_hash(source, "dispatch")


_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.FloorDiv, ast.FloorDiv: ast.Mod, ast.Mod: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.Not: ast.USub, ast.USub: ast.UAdd, ast.In: ast.NotIn,
    ast.Break: ast.Continue, ast.Continue: ast.Break,
}  # fmt: skip


def changes(tree: ast.Module) -> Iterator[Callable[[], None]]:
    """What can be done to a policy so that it means something else."""
    for definition in tree.body:
        if isinstance(definition, ast.FunctionDef) or ast.unparse(definition).startswith(("GPU", "TABLE")):
            for node in ast.walk(definition):
                for name, value in ast.iter_fields(node):
                    for other in others(value):
                        yield partial(setattr, node, name, other)


def others(value: object) -> Iterator[object]:
    """Operators, constants, names, fields and order that differ from `value`."""
    match value:
        case ast.AST() if type(value) in _SWAPS:
            yield _SWAPS[type(value)]()
        case str():
            yield f"{value}_"
        case bool():
            yield not value
        case int() | float():
            yield -value - 1
            yield float(value) if isinstance(value, int) else f"{value}"
        case [ast.AST() as first, *rest]:
            yield from ([other, *rest] for other in others(first))
            if rest:
                yield [first, *rest[:-1]]
            if rest and plain(first) != plain(rest[0]):
                yield [rest[0], first, *rest[1:]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies(), st.data())
def test_every_change_of_meaning_counts(source: str, data: st.DataObject) -> None:
    tree = ast.parse(source)
    possible = list(changes(tree))
    possible[data.draw(st.integers(0, len(possible) - 1))]()
    assert policy_hash(tree, "dispatch") != policy_hash(source, "dispatch"), ast.unparse(tree)


def test_kind_counts() -> None:
    assert policy_hash(BASE, "dispatch") != policy_hash(BASE, "plan")


@pytest.mark.parametrize("name", library.names("dispatch", every=True))
def test_shipped_policies_are_what_they_were(name: str) -> None:
    """Hash, decisions and fuel are recorded in golden.json; `golden.py --write` after a wanted change."""
    assert record(library.load(name)) == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


@pytest.mark.parametrize("name", library.names("plan", every=True))
def test_shipped_plan_policies_are_what_they_were(name: str) -> None:
    assert library.load(name).hash == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]["hash"]


def python(version: str) -> str | None:
    """An interpreter of this version that runs: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python3"))):
        if found and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
            return found
    return None


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_gives_the_same(version: str) -> None:
    """Hashes, decisions and fuel of `golden.json`, by every supported Python that this machine has."""
    interpreter = python(version)
    if interpreter is None:
        pytest.skip(f"no Python {version} here")
    script, source = Path(__file__).with_name("golden.py"), Path(library.__file__).parents[3]
    checked = subprocess.run(
        [interpreter, str(script), "--check"],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
