"""Fit the simulator to a log of your own engine, and compare policies on a fleet of such engines.

    python calibrate_engine.py LOG.jsonl --gpu L40S [--model Llama-3.1-8B] [--replicas 4]

One JSON object per request, times in seconds on one clock: {"arrival_s": 0.0, "prompt_tokens": 512, "output_tokens": 128,
"first_token_s": 0.21, "end_s": 3.9}, and "cached_tokens" where the engine reported prefix hits.
"""

import argparse
from pathlib import Path

import msgspec

from autopoiesis.simulator import SLO, Fleet, Trace, compare
from autopoiesis.simulator.calibrate import EngineSetup, Fit, RequestSample, calibrated, fit_requests
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model


class Row(msgspec.Struct):
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float
    end_s: float
    cached_tokens: int = 0


def report(fit: Fit) -> None:
    for parameter in fit.parameters:
        interval = f"{parameter.low:.4g} to {parameter.high:.4g}"
        print(f"{parameter.name:20} {parameter.value:.4g} ({interval}), was {parameter.start:.4g}")
    for name, why in fit.refused.items():
        print(f"{name:20} as it was: {why}")
    print(
        f"median error of end-to-end times after the fit: {fit.error:.1%} over {fit.observations} observations"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--gpu", required=True)
    parser.add_argument("--model", default="Llama-3.1-8B")
    parser.add_argument("--replicas", type=int, default=4)
    given = parser.parse_args()

    decode = msgspec.json.Decoder(Row).decode
    rows = [decode(line) for line in given.log.read_bytes().splitlines() if line.strip()]
    fleet = Fleet.parse(f"{given.replicas}x{given.gpu}", given.model)
    setup = EngineSetup(gpu=gpu(given.gpu), model=model(given.model), config=fleet.replicas[0].config)
    fit = fit_requests(setup, [RequestSample(**msgspec.structs.asdict(row)) for row in rows])
    report(fit)

    trace = Trace.of(
        given.log.name,
        [row.arrival_s for row in rows],
        [row.prompt_tokens for row in rows],
        [row.output_tokens for row in rows],
    )
    measured = calibrated(fleet, {given.gpu: fit.efficiency})
    result = compare(
        ["round_robin", "least_requests"],
        trace,
        measured,
        SLO(ttft_s=1.0, tpot_s=0.05),
        loads=(given.replicas,),
    )
    for standing in result.ranking():
        print(f"{standing.rank} {standing.policy:16} {standing.figures['attainment']:.1%} within objectives")


if __name__ == "__main__":
    main()
