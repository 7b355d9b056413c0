"""What the simulator needs to be imported: never a server's library, and next to nothing for its engine model alone."""

import subprocess
import sys

import pytest

import autopoiesis.simulator
from autopoiesis.simulator import extras

SERVERS = (
    "nats",
    "sqlalchemy",
    "asyncpg",
    "alembic",
    "fastapi",
    "uvicorn",
    "httpx",
    "openai",
    "vllm",
    "torch",
    "asyncio",
)
OPTIONAL = ("pandas", "matplotlib")
NUMERIC = ("numpy", "scipy", "pyarrow")


def loaded(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh interpreter has loaded after `code`; importing one that is not installed fails there."""
    blocked = f"import sys\nfor name in {SERVERS[:-1] + OPTIONAL}: sys.modules[name] = None\n"
    report = f"\nprint(*[name for name in {names} if sys.modules.get(name)])"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code + report], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_everything_public_is_there_without_servers_and_extras() -> None:
    code = "import autopoiesis.simulator as s, autopoiesis.simulator.job, autopoiesis.simulator.plots\nfor n in s.__all__: getattr(s, n)"
    assert loaded(code, SERVERS + OPTIONAL) == []


def test_the_engine_model_alone_needs_no_numbers() -> None:
    assert loaded("import autopoiesis.simulator.replica, autopoiesis.simulator.steptime", NUMERIC) == []


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(extras.MissingExtraError, match=r"pip install 'autopoiesis-simulator\[pandas\]'"):
        extras.pandas()
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = autopoiesis.simulator.evalute
