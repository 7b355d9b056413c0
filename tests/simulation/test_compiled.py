"""What `make compiled` builds gives the very results of the sources it was built from."""

import subprocess
import sys
from pathlib import Path

import pytest

WORLDS = Path(__file__).with_name("compiled_worlds.py")


def worlds(python: Path | str) -> tuple[str, str]:
    """What it says of itself, and a line for each world."""
    done = subprocess.run([python, WORLDS], capture_output=True, text=True, check=True)
    return done.stderr.strip(), done.stdout


@pytest.mark.slow
def test_compiled_worlds_are_the_interpreted_ones(repository: Path) -> None:
    check = subprocess.run([sys.executable, repository / "infra/compiled.py", "--check"], check=False)
    if check.returncode:
        pytest.skip("no compiled environment of today's sources (make compiled)")
    kind, expected = worlds(sys.executable)
    assert kind == "interpreted"
    kind, found = worlds(repository / ".venv-compiled/bin/python")
    assert kind == "compiled"
    assert found.splitlines() == expected.splitlines()
    assert len(expected.splitlines()) >= 40
