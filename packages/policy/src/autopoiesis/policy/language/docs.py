"""Writes docs/policy-language.md.

`python -m autopoiesis.policy.language.docs --write|--check [--path FILE]`, from the root of the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from autopoiesis.policy import api
from autopoiesis.policy.language import prose, reference

PATH: Final = Path("docs/policy-language.md")


def page() -> str:
    """The whole page."""
    return "\n".join(
        [prose.INTRODUCTION, reference.language(*api.KINDS), *map(reference.interface, api.KINDS)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the page")
    action.add_argument("--check", action="store_true", help="exit 1 if the page is not what it would be")
    parser.add_argument("--path", type=Path, default=PATH)
    arguments = parser.parse_args()
    if arguments.write:
        arguments.path.write_text(page(), encoding="utf-8")
    elif not arguments.path.exists() or arguments.path.read_text(encoding="utf-8") != page():
        raise SystemExit(
            f"{arguments.path} is out of date: run python -m autopoiesis.policy.language.docs --write"
        )


if __name__ == "__main__":
    main()
