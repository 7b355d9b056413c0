"""Replays as jobs: bytes in, bytes out, and results that are not believed."""

import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest

from autopoiesis.contracts.messages.fleet import Heartbeat
from autopoiesis.contracts.messages.telemetry import RequestRecord
from autopoiesis.policy import library
from autopoiesis.simulator import job as jobs
from autopoiesis.simulator.requests.outcome import FINISHED, OUTCOMES
from autopoiesis.simulator.workload.snapshot import SnapshotInfo, read_snapshot, write_snapshot
from autopoiesis.simulator.workload.window import pack


@pytest.fixture(scope="module")
def window() -> bytes:
    records = [
        RequestRecord(
            request_id=f"r{n}",
            scope="demo/*",
            model="llama-3.1-8b",
            arrival_unix_s=1000.0 + n * 0.05,
            stream=True,
            prompt_bytes=1600,
            prompt_tokens=400 + 10 * n,
            prompt_tokens_estimated=400,
            max_tokens=512,
            output_tokens=20 + n % 30,
            output_censored=n % 10 == 0,
            outcome="finished",
            klass="interactive" if n % 3 else "batch",
        )
        for n in range(200)
    ]
    fleet = tuple(
        Heartbeat(
            node="n",
            replica=name,
            incarnation="1",
            beat=1,
            state="ready",
            model="llama-3.1-8b",
            gpu=gpu,
            kv_capacity_tokens=60_000,
            max_running=64,
        )
        for name, gpu in (("a", "H100"), ("b", "L40S"))
    )
    info = SnapshotInfo(scope="demo/*", start_unix_s=1000, end_unix_s=1010, scored_from_s=1.0, fleet=fleet)
    return pack(read_snapshot(write_snapshot(records, info)).window)


def job(window: bytes, **changes: Any) -> jobs.ReplayJob:
    return jobs.ReplayJob(
        **{"policy": library.source("least_requests"), "window": window, "loads": (0.5, 1.0), **changes}
    )


def test_a_replay_answers_in_columns(window: bytes) -> None:
    asked = job(window, seeds=(1, 2))
    payload = jobs.run(msgspec.msgpack.encode(asked))
    assert payload == jobs.run(msgspec.msgpack.encode(asked))
    result = jobs.replayed(payload, asked)
    assert [(cell.load, cell.seed) for cell in result.cells] == [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)]
    cell = result.cells[-1]
    arrival = jobs.column(cell, "arrival_s")
    assert len(arrival) == 180
    assert arrival[0] >= 0
    assert (jobs.column(cell, "outcome") == FINISHED).all()
    assert set(np.array(cell.gpus)[jobs.column(cell, "gpu")]) <= {"H100", "L40S"}
    assert set(cell.classes) == {"batch", "interactive"}
    assert cell.summary["attainment"] == pytest.approx(jobs.column(cell, "met").mean())


def test_censored_lengths_differ_by_seed_not_by_policy(window: bytes) -> None:
    def tokens(policy: str, seed: int) -> list[int]:
        asked = job(window, policy=policy, loads=(1.0,), seeds=(seed,))
        (cell,) = jobs.replayed(jobs.run(msgspec.msgpack.encode(asked)), asked).cells
        return [int(n) for n in jobs.column(cell, "tokens")]

    assert tokens("random", 1) == tokens("round_robin", 1) != tokens("random", 2)


def forged(window: bytes, **changes: Any) -> None:
    asked = job(window, loads=(1.0,))
    result = msgspec.msgpack.decode(jobs.run(msgspec.msgpack.encode(asked)), type=jobs.ReplayResult)
    cell = msgspec.structs.replace(result.cells[0], **changes)
    jobs.replayed(msgspec.msgpack.encode(msgspec.structs.replace(result, cells=(cell,))), asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcome": bytes([OUTCOMES.index("failed")]) * 180}, "did not finish met"),
        ({"tokens": bytes(8 * 180)}, "has no token"),
        ({"met": b"\1" * 90}, "differ in length"),
        ({"met": b"", "ttft_s": b"123"}, "cut short"),
        ({"klass": b"\x09\0\0\0" * 180}, "unknown class"),
        ({"load": 2.0}, "not those that were asked for"),
    ],
)
def test_forged_results_are_refused(window: bytes, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(jobs.BadResultError, match=message):
        forged(window, **changes)


def test_what_is_not_a_result_is_refused(window: bytes) -> None:
    with pytest.raises(jobs.BadResultError, match="not a replay's result"):
        jobs.replayed(b"\x00", job(window))


def test_the_workers_part_needs_no_numpy() -> None:
    code = (
        "import sys; import autopoiesis.simulator.replica, autopoiesis.simulator.hardware;"
        "import autopoiesis.simulator.models, autopoiesis.simulator.steptime;"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'pyarrow', 'asyncio')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
