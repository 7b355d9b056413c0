"""The Autopoiesis paper's comparisons (arXiv 2604.07144), ours beside its own.

    python benchmarks/paper/run.py [--table 2|3|4|fig7|fresh|online|all] [--json FILE] [--picture FILE] [--data DIR]

Needs the paper's figures (traces.json, figure7.json) in DIR, by default beside the checkout; skipped where they are not. The paper's
"53 % / 34 %" of Figure 7 are ratios of total times less one; `ratio` is that ratio, time reductions are called cuts.
JSON keys: shares; `gain`, `cut` and `fig7` paper-charged, `gap_closed`, `fresh` and `online` measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from cases import DATA, HERE, Case, load
from checks import Check, accounting, shapes, sizes
from compare import Compared, alternatives, compare
from fresh import fresh
from measure import Bench
from show import picture, table

TABLES = ("2", "3", "4", "fig7", "fresh", "online")


def run_cases(cases: dict[str, Case], prefix: str, *, repeats: int) -> list[Compared]:
    """Compare and print every case of a table, each also with what the paper leaves open decided the other way."""
    found = []
    for key, case in cases.items():
        if key.startswith(prefix):
            with Bench(case.assumptions, repeats=repeats) as bench:
                found.append(compare(case, bench, with_bound=prefix != "fig7"))
            table(found[-1])
            for note, other in alternatives(case):
                with Bench(other.assumptions, repeats=1) as bench:
                    table(compare(other, bench, with_bound=False, paper_only=True), f"alternative: {note}")
    return found


def keys_of(table_name: str, found: list[Compared]) -> dict[str, Any]:
    if table_name == "fig7":
        ratios = [1 + c.gain for c in found if c.gain is not None]
        if ratios:
            print(f"\nFigure 7: best rival / evolved, paper-charged: mean {fmean(ratios):.3f}, best {max(ratios):.3f}; "
                  f"as time reductions mean {fmean(1 - 1 / r for r in ratios):.1%}, best {1 - 1 / max(ratios):.1%}")  # fmt: skip
        return {
            "fig7": {"mean_ratio": fmean(ratios) if ratios else None, "max_ratio": max(ratios, default=None)}
        }
    shown = {"2": ("gain", "gap_closed"), "3": ("gain",), "4": ("cut",)}[table_name]
    rows = {case.case.key.split("/")[1]: {name: getattr(case, name) for name in shown} for case in found}
    return {f"table{table_name}": rows}


def online() -> dict[str, Any]:
    """What `online.py` reports of the live runs that were recorded; they take long and are not run again here."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "online.json"
        print("\n== online, live runs as recorded", flush=True)
        subprocess.run([sys.executable, HERE / "online.py", "--report", "--json", file], check=True)
        if not file.exists():
            print("no live runs yet: see online.py")
            return {"online": {"gain_net": None}}
        told: dict[str, Any] = json.loads(file.read_text())
        return told


def evidence(
    cases: dict[str, Case], wanted: tuple[str, ...], given: argparse.Namespace
) -> tuple[dict[str, Any], list[Check]]:
    """The result as JSON and what was checked."""
    result: dict[str, Any] = {}
    checks = [accounting(cases[key].trace) for key in ("table2/volatile", "table2/stable")]
    for name in wanted:
        if name == "fresh":
            result |= {"fresh": fresh()}
        elif name == "online":
            result |= online()
        else:
            found = run_cases(cases, "fig7" if name == "fig7" else f"table{name}", repeats=given.repeats)
            checks += [check for case in found for check in shapes(case)]
            result |= keys_of(name, found)
            if name == "fig7" and given.picture:
                picture(found, given.picture)
    return result, [*checks, *sizes(result)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=(*TABLES, "all"), default="all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="bars like Figure 7, a PNG or PDF; needs matplotlib")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--repeats", type=int, default=3, help="runs whose median scheduling time counts")
    given = parser.parse_args()
    try:
        cases = load(given.data)
    except OSError as error:
        print(
            f"skipped: the paper's figures are not in {given.data} ({error.strerror}); pass their folder with --data"
        )
        return 0
    result, checks = evidence(cases, TABLES if given.table == "all" else (given.table,), given)
    print("\n== what should be shown", *checks, sep="\n")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
