"""The programs under docs/examples run, and a fleet takes over what was measured on it."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autopoiesis.simulator import Fleet, Trace
from autopoiesis.simulator.calibrate import RequestSample, calibrated, play
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.moves import start
from autopoiesis.simulator.steptime import StepTime
from autopoiesis.simulator.workload.generate import poisson

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SLOW = replace(gpu("L40S").efficiency, weights=0.55)


def run(name: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_policies_are_compared(tmp_path: Path) -> None:
    picture = tmp_path / "example.png"
    lines = run("compare_policies.py", "--plot", str(picture))
    assert {line.split()[3] for line in lines} == {"mine", "least_requests", "slo_triage"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_engine_is_calibrated_by_its_log(tmp_path: Path) -> None:
    traffic: Trace = poisson(2.0, 40.0, seed=5)
    spec = Fleet.parse("1xL40S").replicas[0]
    assert isinstance(spec.steps, StepTime)
    arrivals = [
        RequestSample(arrival_s=at, prompt_tokens=prompt, output_tokens=output, first_token_s=at + 1, end_s=at + 2)
        for at, prompt, output in zip(traffic.arrival.tolist(), traffic.prompt_tokens.tolist(), traffic.output_tokens.tolist(), strict=True)
    ]  # fmt: skip
    times = play(arrivals, StepTime(spec.steps.gpu, spec.steps.model, 1, SLOW), spec.config)
    log = tmp_path / "log.jsonl"
    rows = [
        {
            "arrival_s": r.arrival_s,
            "prompt_tokens": r.prompt_tokens,
            "output_tokens": r.output_tokens,
            **t._asdict(),
        }
        for r, t in zip(arrivals, times, strict=True)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = "\n".join(run("calibrate_engine.py", str(log), "--gpu", "L40S"))
    weights = re.search(r"^weights +([0-9.]+)", text, re.MULTILINE)
    assert weights is not None
    # The search starts at 0.76, with a weak pull to it.
    assert float(weights[1]) == pytest.approx(SLOW.weights, abs=0.08)
    assert "within objectives" in text


def test_measured_efficiencies_reach_every_replica_of_the_type() -> None:
    fleet = Fleet.parse("1xL40S + 1xL4")
    later = replace(fleet.replicas[0], name="later")
    measured = calibrated(fleet.with_changes([start(10.0, later)]), {"l40s": SLOW})
    fast, slow, other = fleet.replicas[0].steps, measured.replicas[0].steps, measured.replicas[1].steps
    assert slow.step([], 8, 4000, 8) > 1.2 * fast.step([], 8, 4000, 8)
    assert other is fleet.replicas[1].steps
    joined = measured.changes[0].spec
    assert joined is not None
    assert joined.steps.step([], 8, 4000, 8) == slow.step([], 8, 4000, 8)
    with pytest.raises(ValueError, match="no replica on H100; the fleet has L4, L40S"):
        calibrated(fleet, {"H100": SLOW})
