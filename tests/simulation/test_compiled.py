"""What `make compiled` builds gives the very results of the sources it was built from."""

import subprocess
import sys
from pathlib import Path

import pytest

WORLDS = Path(__file__).with_name("compiled_worlds.py")
TESTED = """
import sys, pytest
from autopoiesis.router import serving
assert not serving.__file__.endswith(".py")
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture
def compiled(repository: Path) -> Path:
    """The compiled environment's interpreter."""
    check = subprocess.run([sys.executable, repository / "infra/compiled.py", "--check"], check=False)
    if check.returncode:
        pytest.skip("no compiled environment of today's sources (make compiled)")
    return repository / ".venv-compiled/bin/python"


def worlds(python: Path | str) -> tuple[str, str]:
    """What it says of itself, and a line for each world."""
    done = subprocess.run([python, WORLDS], capture_output=True, text=True, check=True)
    return done.stderr.strip(), done.stdout


@pytest.mark.slow
def test_compiled_worlds_are_the_interpreted_ones(compiled: Path) -> None:
    kind, expected = worlds(sys.executable)
    assert kind == "interpreted"
    kind, found = worlds(compiled)
    assert kind == "compiled"
    assert found.splitlines() == expected.splitlines()
    assert len(expected.splitlines()) >= 40


@pytest.mark.slow
def test_a_compiled_router_passes_the_tests_of_the_interpreted_one(compiled: Path, repository: Path) -> None:
    files = sorted((repository / "tests/unit").glob("test_router_*.py"))
    options = ["-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [compiled, "-c", TESTED, *options, *files],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
