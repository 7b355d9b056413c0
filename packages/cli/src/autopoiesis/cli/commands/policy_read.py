"""`autopoiesis policy list`, `show` and `diff`: looking, without touching."""

import difflib
from typing import Annotated, Any

from cyclopts import Parameter
from rich.syntax import Syntax

from autopoiesis.cli.context import COMMON, Common
from autopoiesis.cli.output import console, print_json, table
from autopoiesis.cli.policies import SHIPPED, SHORT, source_of, stored, stored_if_any, with_store
from autopoiesis.policy.api import Kind
from autopoiesis.store import Store, operations
from autopoiesis.store.operations import Shown

Named = Annotated[str, Parameter(help="A shipped name, a file, or the beginning of a hash.")]


def list_(
    *,
    kind: Annotated[Kind | None, Parameter(help="Only this kind.")] = None,
    limit: Annotated[int, Parameter(help="Newest versions to show.")] = 30,
    common: Common = COMMON,
) -> None:
    """Versions in the store, newest first, the active ones marked with where and since which epoch; then the shipped names."""

    async def read(store: Store) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
        active: dict[str, list[str]] = {}
        for standing in await operations.in_force(store):
            act = standing.activation
            active.setdefault(standing.policy.hash, []).append(f"{act.scope} (epoch {act.epoch})")
        rows = [
            {
                "hash": p.hash,
                "kind": p.kind,
                "origin": p.origin,
                "title": p.title,
                "created": p.created.strftime("%Y-%m-%d %H:%M:%SZ"),
            }
            for p in await operations.policies(store, kind=kind, limit=limit)
        ]
        return rows, active

    rows, active = with_store(common, read)
    shipped = [{"name": name, "kind": its} for name, its in SHIPPED.items() if kind in (None, its)]
    if common.json:
        marked = [{**row, "active": row["hash"] in active} for row in rows]
        print_json({"policies": marked, "shipped": shipped})
        return
    cells = [
        (
            "*" if r["hash"] in active else "",
            r["hash"][:SHORT],
            r["kind"],
            r["origin"],
            r["created"],
            r["title"],
        )
        for r in rows
    ]
    console.print(table("policies", ("", "hash", "kind", "origin", "created", "idea"), cells))
    for hash_, where in active.items():
        console.print(f"* {hash_[:SHORT]} is active for {', '.join(where)}", highlight=False)
    console.print(f"\nshipped: {', '.join(row['name'] for row in shipped)}")


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


def _labelled(common: Common, policy: str) -> tuple[str, str]:
    source = source_of(policy)
    if source is not None:
        return source.name, source.text
    row = stored(common, policy).policy
    return f"{row.hash[:SHORT]} {row.title}".strip(), row.source


def _record(known: Shown | None) -> dict[str, Any]:
    if known is None:
        return {"evaluations": [], "active": []}
    fields = (
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
    return {
        "evaluations": [{name: getattr(e, name) for name in fields} for e in known.evaluations],
        "active": [{"scope": s.activation.scope, "epoch": s.activation.epoch} for s in known.in_force],
    }


def _print_record(known: Shown) -> None:
    console.print()
    if known.evaluations:
        cells = [
            (
                e.verdict,
                f"{e.gain:+.1%}",
                f"{e.gain_low:+.1%} to {e.gain_high:+.1%}",
                e.snapshot[:SHORT],
                e.reason,
            )
            for e in known.evaluations
        ]
        console.print(table("evaluations", ("verdict", "gain", "interval", "snapshot", "reason"), cells))
    else:
        console.print("never evaluated")
    for standing in known.in_force:
        console.print(f"active for {standing.activation.scope} as epoch {standing.activation.epoch}")
