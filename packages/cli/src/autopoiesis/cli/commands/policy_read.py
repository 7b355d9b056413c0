"""`autopoiesis policy list`, `history`, `show` and `diff`: looking, without touching."""

import difflib
from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.syntax import Syntax

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import console, print_json, table
from autopoiesis.cli.policies import SHIPPED, SHORT, source_of, stored, stored_if_any, with_store
from autopoiesis.policy.api import Kind
from autopoiesis.store import Store, operations
from autopoiesis.store.models import Evaluation
from autopoiesis.store.operations import Entered, Listed, Shown

JUDGED = (
    "verdict",
    "gate",
    "reason",
    "gain",
    "gain_low",
    "gain_high",
    "scope",
    "snapshot",
    "incumbent",
    "created",
)
"""What is told of an evaluation."""
Named = Annotated[str, Parameter(help="A shipped name, a file, or the beginning of a hash.")]


def list_(
    *,
    kind: Annotated[Kind | None, Parameter(help="Only this kind.")] = None,
    judged: Annotated[bool, Parameter(help="Only those that the evaluator spoke on.", negative=())] = False,
    limit: Annotated[int, Parameter(help="Newest versions to show.")] = 30,
    common: Common = COMMON,
) -> None:
    """Versions in the store, newest first, with their last judgement; then the shipped names.

    `*` marks what is active, `promote` what proved itself and was made active, `advise` what proved itself and waits for you.
    """

    async def read(store: Store) -> tuple[Sequence[Listed], dict[str, list[str]]]:
        active: dict[str, list[str]] = {}
        for standing in await operations.in_force(store):
            act = standing.activation
            active.setdefault(standing.policy.hash, []).append(f"{act.scope} (epoch {act.epoch})")
        return await operations.policies(store, kind=kind, judged=judged, limit=limit), active

    rows, active = with_store(common, read)
    shipped = [{"name": name, "kind": its} for name, its in SHIPPED.items() if kind in (None, its)]
    if common.json:
        print_json({"policies": [_listed(row, active) for row in rows], "shipped": shipped})
        return
    cells = [
        (
            "*" if row.policy.hash in active else "",
            row.policy.hash[:SHORT],
            row.policy.kind,
            row.policy.origin,
            _time(row.policy.created),
            row.evaluation.verdict if row.evaluation else "",
            _gain(row.evaluation),
            row.policy.title,
        )
        for row in rows
    ]
    columns = ("", "hash", "kind", "origin", "created", "verdict", "gain", "idea")
    console.print(table("policies", columns, cells))
    for hash_, where in active.items():
        console.print(f"* {hash_[:SHORT]} is active for {', '.join(where)}", highlight=False)
    console.print(f"\nshipped: {', '.join(row['name'] for row in shipped)}")


def history(
    *,
    scope: Annotated[str | None, Parameter(help="Only this scope.")] = None,
    kind: Annotated[Kind | None, Parameter(help="Only this kind.")] = None,
    limit: Annotated[int, Parameter(help="Newest activations to show.")] = 30,
    common: Common = COMMON,
) -> None:
    """What came into force, newest first: when, who wrote it, why, and the gain that was proven for it."""
    rows = with_store(common, lambda store: operations.history(store, scope, kind, limit=limit))
    if common.json:
        print_json([_entered(row) for row in rows])
        return
    cells = [
        (
            row.activation.epoch,
            _time(row.activation.created),
            row.activation.scope,
            row.activation.kind,
            row.policy.hash[:SHORT],
            row.policy.origin,
            _gain(row.evaluation),
            row.activation.cause,
            row.policy.title,
        )
        for row in rows
    ]
    columns = ("epoch", "since", "scope", "kind", "hash", "origin", "gain", "cause", "idea")
    console.print(table("activations", columns, cells))


def show(policy: Named, *, common: Common = COMMON) -> None:
    """Source, lineage and evaluations of POLICY, and where it is active. A shipped one or a file needs nothing running."""
    source = source_of(policy)
    if source is None:
        known: Shown | None = stored(common, policy)
        assert known is not None
        text, row = known.policy.source, known.policy
        facts = {
            "hash": row.hash,
            "kind": row.kind,
            "origin": row.origin,
            "parents": row.parents,
            "title": row.title,
        }
    else:
        hash_ = source.hash()
        known = stored_if_any(common, hash_)
        text = source.text
        facts = {"name": policy, "hash": hash_, "kind": source.kind, "origin": source.origin}
    if common.json:
        print_json({**facts, "source": text, **_record(known)})
        return
    console.print(table("policy", ("", ""), facts.items()))
    print_code(text, "python")
    if known is not None:
        _print_record(known)


def diff(before: Named, after: Named, *, common: Common = COMMON) -> None:
    """Unified diff of two policies; empty where their texts are the same."""
    old, new = (_labelled(common, policy) for policy in (before, after))
    text = "".join(
        difflib.unified_diff(
            old[1].splitlines(keepends=True), new[1].splitlines(keepends=True), old[0], new[0]
        )
    )
    if common.json:
        print_json({"before": old[0], "after": new[0], "diff": text})
    else:
        print_code(text, "diff")


def print_code(text: str, language: str) -> None:
    """Coloured on a terminal, and as it is elsewhere, where a cut line would be a wrong one."""
    if console.is_terminal:
        console.print(Syntax(text, language, background_color="default", word_wrap=True))
    else:
        console.out(text, end="" if text.endswith("\n") or not text else "\n", highlight=False)


def _listed(row: Listed, active: Container[str]) -> dict[str, Any]:
    policy, judged = row.policy, row.evaluation
    return {
        "hash": policy.hash,
        "kind": policy.kind,
        "origin": policy.origin,
        "title": policy.title,
        "created": policy.created.isoformat(),
        "active": policy.hash in active,
        "evaluation": _judgement(judged) if judged else None,
    }


def _entered(row: Entered) -> dict[str, Any]:
    act = row.activation
    return {
        "epoch": act.epoch,
        "since": act.created.isoformat(),
        "scope": act.scope,
        "kind": act.kind,
        "hash": row.policy.hash,
        "origin": row.policy.origin,
        "title": row.policy.title,
        "rollback": act.rollback,
        "replaces": act.replaces,
        "cause": act.cause,
        "evaluation": _judgement(row.evaluation) if row.evaluation else None,
    }


def _judgement(evaluation: Evaluation) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in JUDGED}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _gain(evaluation: Evaluation | None) -> str:
    """With its interval; empty for a candidate that no gate measured."""
    if evaluation is None or evaluation.gain_low == evaluation.gain_high:
        return ""
    return f"{evaluation.gain:+.1%} ({evaluation.gain_low:+.1%} to {evaluation.gain_high:+.1%})"


def _labelled(common: Common, policy: str) -> tuple[str, str]:
    source = source_of(policy)
    if source is not None:
        return source.name, source.text
    row = stored(common, policy).policy
    return f"{row.hash[:SHORT]} {row.title}".strip(), row.source


def _record(known: Shown | None) -> dict[str, Any]:
    if known is None:
        return {"evaluations": [], "active": []}
    return {
        "evaluations": [_judgement(e) for e in known.evaluations],
        "active": [{"scope": s.activation.scope, "epoch": s.activation.epoch} for s in known.in_force],
    }


def _print_record(known: Shown) -> None:
    console.print()
    if known.evaluations:
        cells = [
            (
                e.verdict,
                e.gate,
                _gain(e),
                _time(e.created),
                e.snapshot[:SHORT],
                e.reason,
            )
            for e in known.evaluations
        ]
        console.print(
            table("evaluations", ("verdict", "last gate", "gain", "when", "snapshot", "reason"), cells)
        )
    else:
        console.print("never evaluated")
    for standing in known.in_force:
        console.print(f"active for {standing.activation.scope} as epoch {standing.activation.epoch}")
