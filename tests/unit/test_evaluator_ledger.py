"""What comes out of the jail is believed only as far as the window bears it out."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.evaluator.ledger import audited
from autopoiesis.policy import library
from autopoiesis.simulator.job import BadResultError, Cell, ReplayJob, replayed, run
from autopoiesis.simulator.workload.generate import BATCH, INTERACTIVE, poisson
from autopoiesis.simulator.workload.window import SnapshotInfo, Window, pack

LOAD, SEED = 1.2, 5


@pytest.fixture(scope="module")
def window() -> Window:
    beat = Heartbeat(
        node="n",
        replica="r",
        incarnation="1",
        beat=1,
        state="ready",
        model="Llama-3.1-8B",
        gpu="H100",
        max_running=256,
        kv_capacity_tokens=400_000,
    )
    info = SnapshotInfo(scope="local/m", start_unix_s=0.0, end_unix_s=20.0, fleet=(beat,), scored_from_s=2.0)
    return Window(info, poisson(12, 20, mix=(INTERACTIVE, BATCH), seed=3))


@pytest.fixture(scope="module")
def cell(window: Window) -> Cell:
    job = ReplayJob(
        policy=library.source("least_requests"), window=pack(window), loads=(LOAD,), seeds=(SEED,)
    )
    return replayed(run(msgspec.msgpack.encode(job)), job).cells[0]


def changed(cell: Cell, name: str, kind: str, change: Callable[[np.ndarray], None]) -> Cell:
    values = np.frombuffer(getattr(cell, name), kind).copy()
    change(values)
    return msgspec.structs.replace(cell, **{name: values.tobytes()})


def test_an_honest_result_is_counted_from_its_times(cell: Cell, window: Window) -> None:
    replay = audited(cell, window)
    assert replay.arrivals > 100
    assert replay.span_s == 18.0
    assert (replay.met == np.frombuffer(cell.met, "?")).all()
    assert set(replay.klass) == {"interactive", "batch"}
    assert 0 < replay.met.mean() <= 1


def test_claimed_verdicts_are_not_used(cell: Cell, window: Window) -> None:
    boasting = msgspec.structs.replace(cell, met=np.ones(len(cell.met), "?").tobytes())
    assert (audited(boasting, window).met == audited(cell, window).met).all()


def halve(values: np.ndarray) -> None:
    values[:] = values // 2


def later(values: np.ndarray) -> None:
    values += 0.5


def swap(values: np.ndarray) -> None:
    values[:] = 1 - values


@pytest.mark.parametrize(
    ("name", "kind", "change", "why"),
    [
        ("tokens", "<i8", halve, "does not have its length"),
        ("arrival_s", "<f8", later, "not at the times"),
        ("klass", "<i4", swap, "not of the classes"),
    ],
)
def test_results_that_the_window_contradicts_are_refused(
    cell: Cell, window: Window, name: str, kind: str, change: Callable[[np.ndarray], None], why: str
) -> None:
    with pytest.raises(BadResultError, match=why):
        audited(changed(cell, name, kind, change), window)


def test_left_out_arrivals_are_noticed(cell: Cell, window: Window) -> None:
    columns = {
        "arrival_s": 8,
        "ttft_s": 8,
        "tpot_s": 8,
        "klass": 4,
        "gpu": 4,
        "outcome": 1,
        "met": 1,
        "tokens": 8,
        "fuel": 8,
    }
    shorter = msgspec.structs.replace(
        cell, **{name: getattr(cell, name)[:-width] for name, width in columns.items()}
    )
    with pytest.raises(BadResultError, match="arrivals; the window has"):
        audited(shorter, window)
