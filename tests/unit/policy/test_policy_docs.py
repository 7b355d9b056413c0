"""The pages tell the truth: the generated one is current, the example on the other one runs."""

import math
import re
from pathlib import Path

from golden import state
from plan_world import context as plan_context
from plan_world import makespan

from autopoiesis.dispatch.settings import DispatchSettings
from autopoiesis.policy.api import KINDS, VIEWS, VIEWS_OF, Assign
from autopoiesis.policy.fields import FIELDS
from autopoiesis.policy.language import compile_policy, docs, reference
from autopoiesis.policy.language.compiler import DEFAULT_FUEL

DOCS = Path(__file__).parents[3] / "docs"


def example() -> str:
    text = (DOCS / "writing-a-policy.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_grammar_page_is_what_the_tables_say() -> None:
    assert (DOCS / "policy-language.md").read_text(encoding="utf-8") == docs.page()


def test_the_page_is_made_of_what_a_language_model_is_told() -> None:
    for kind in KINDS:
        told = [*reference.language(kind).splitlines(), *reference.interface(kind).splitlines()]
        assert set(told) <= set(docs.page().splitlines())
        assert {view in reference.interface(kind) for view in VIEWS_OF[kind]} == {True}


def test_every_field_has_a_meaning() -> None:
    for view, cls in VIEWS.items():
        assert set(FIELDS[view]) == set(vars(cls)["__slots__"])
    assert FIELDS["Replica"]["waiting"].meaning.startswith("sequences queued in the engine")


def test_worked_example_does_what_the_page_says() -> None:
    policy = compile_policy(example(), "dispatch")
    request, fleet, context = state(1, 3)
    request.waited, request.ttft_slo, request.prompt_tokens = 0.0, 2.0, 5000
    for replica, gpu, ttft, cached in zip(
        fleet, ("L4", "H100", "H100"), (0.3, 1.0, 1.0), (0, 0, 4000), strict=True
    ):
        replica.gpu, replica.predicted_ttft, replica.prefix_hit_tokens = gpu, ttft, cached
        replica.kv_used_tokens, replica.kv_capacity_tokens = 0, 100_000
    assert policy.route(request, fleet, context) == Assign(2)
    request.prompt_tokens = 100
    for replica in fleet:
        replica.prefix_hit_tokens = 0
    assert policy.route(request, fleet, context) == Assign(0)
    request.waited = 1.9
    assert policy.route(request, fleet, context) == Assign(0, priority=1000)
    assert policy.title.startswith("Long prompts to fast replicas")
    assert policy.reads["Request"] == {"arrival", "ttft_slo", "prompt_tokens", "waited"}


def test_the_plan_policy_of_the_page_plans() -> None:
    page = (DOCS / "writing-a-policy.md").read_text(encoding="utf-8")
    source = page.split("## A plan policy")[1].split("```python\n")[1].split("```")[0]
    ctx = plan_context([(30, 512, 256), (20, 512, 256)], {"H100": 8})
    policy = compile_policy(source, "plan")
    assert policy.should_reschedule(ctx)
    assert makespan(ctx, policy.schedule(ctx)) < math.inf


def test_the_fuel_that_the_page_names_is_what_there_is() -> None:
    page = (DOCS / "writing-a-policy.md").read_text(encoding="utf-8")
    found = re.search(
        r"A call may spend ([\d,]+) units of fuel, but a pass over all held requests spends ([\d,]+)", page
    )
    assert found is not None
    call, wake = (int(figure.replace(",", "")) for figure in found.groups())
    assert (call, wake) == (DEFAULT_FUEL["dispatch"], DispatchSettings().fuel_per_wake)
