"""The fidelity benchmarks as a user runs them: on logs and points of engines that only the simulator knows, and on real ones."""

import csv
import gzip
import importlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autopoiesis.simulator.calibrate import RequestSample, Times, play
from autopoiesis.simulator.engine import EngineConfig
from autopoiesis.simulator.hardware import gpu
from autopoiesis.simulator.models import model
from autopoiesis.simulator.steptime import AffineSteps, StepTime

SHARED = Path(__file__).parents[3] / "shared" / "data"
POINT = {
    "id": "one",
    "backend": "vllm",
    "backend_version": "0.19.0",
    "model_path": "Qwen/Qwen3-32B",
    "system": "h100_sxm",
    "precision": "",
    "mode": "agg",
    "isl": "1024",
    "osl": "32",
    "batch_size": "4",
    "tp_size": "2",
    "pp_size": "1",
    "attention_dp_size": "1",
    "silicon_ttft_ms": "100",
    "silicon_tpot_ms": "15",
}


@pytest.fixture
def run(repository: Path) -> Any:
    def start(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(repository / "benchmarks/fidelity" / script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)

    return start


def write_log(
    directory: Path, *, tp: int = 2, device: str = "NVIDIA H100 80GB HBM3", slower: float = 1.0
) -> None:
    """What a Qwen3-14B engine on two H100, `slower` than the shipped model of it, would have logged."""
    rng, now, requests = random.Random(3), 0.0, []
    for _ in range(120):
        now += rng.expovariate(12)
        requests.append(
            RequestSample(
                arrival_s=now,
                prompt_tokens=rng.randint(50, 3000),
                output_tokens=rng.randint(5, 150),
                first_token_s=now + 1,
                end_s=now + 1,
            )
        )
    config = EngineConfig(kv_capacity_tokens=160_000, max_batched_tokens=2048, max_running=128)
    times = play(requests, StepTime(gpu("H100"), model("Qwen3-14B"), 2, scale=slower), config)
    write_files(directory, requests, times, tp, device)


def write_files(
    directory: Path, requests: list[RequestSample], times: list[Times], tp: int, device: str
) -> None:
    """The engine's clock reads 500 s when the client's reads 1e9 s."""
    meta = {
        "model": "Qwen/Qwen3-14B",
        "vllm_version": "0.19.0",
        "engine_kwargs": {"tensor_parallel_size": tp, "max_num_seqs": 128, "max_num_batched_tokens": 2048},
        "kv_cache": {"num_gpu_blocks": 10_001, "block_size": 16, "enable_prefix_caching": False},
        "hardware": {"device_name": device},
    }
    directory.mkdir(exist_ok=True)
    (directory / "meta.json").write_text(json.dumps(meta))
    rows = [
        {
            "input_toks": request.prompt_tokens,
            "output_toks": request.output_tokens,
            "arrival_time": 1e9 + request.arrival_s,
            "queued_ts": 500 + request.arrival_s,
            "first_token_ts": 500 + first,
            "last_token_ts": 500 + end,
        }
        for request, (first, end) in zip(requests, times, strict=True)
    ]
    (directory / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_log_of_the_shipped_engine_is_met_without_a_fit(run: Any, tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    done = run("run.py", "--log", tmp_path / "log", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    keys = json.loads((tmp_path / "out.json").read_text())
    for key in ("ttft_mean_err", "tpot_mean_err", "e2e_mean_err", "e2e_mape"):
        assert keys[key] == pytest.approx(0, abs=1e-6)
    assert (keys["model"], keys["gpu"], keys["requests"]) == ("Qwen3-14B", "H100", 120)


def test_a_slower_engine_is_missed_without_a_fit_and_met_with_one(run: Any, tmp_path: Path) -> None:
    write_log(tmp_path / "log", slower=1.25)
    errors = {}
    for mode in ("none", "half"):
        done = run("run.py", "--log", tmp_path / "log", "--fit", mode, "--json", tmp_path / "out.json")
        assert done.returncode == 0, done.stderr
        errors[mode] = json.loads((tmp_path / "out.json").read_text())
    assert errors["none"]["e2e_mean_err"] < -0.15
    assert errors["half"]["e2e_mape"] < 0.03
    assert errors["half"]["requests"] == 60
    assert errors["half"]["parameters"]


def test_a_log_that_cannot_be_read_says_why(run: Any, tmp_path: Path) -> None:
    write_log(tmp_path / "log", device="NVIDIA Z9000")
    done = run("run.py", "--log", tmp_path / "log")
    assert done.returncode == 2
    assert "no known GPU among ['NVIDIA Z9000', 'log']; say which with --gpu" in done.stderr
    assert run("run.py", "--log", tmp_path / "log", "--gpu", "H100").returncode == 0
    with (tmp_path / "log" / "requests.jsonl").open("a") as rows:
        rows.write('{"input_toks": 3}\n')
    done = run("run.py", "--log", tmp_path / "log", "--gpu", "H100")
    assert "requests.jsonl, line 121: KeyError('arrival_time')" in done.stderr
    assert done.returncode == 2


def test_a_model_outside_the_table_needs_its_config(run: Any, tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    meta = json.loads((tmp_path / "log" / "meta.json").read_text())
    (tmp_path / "log" / "meta.json").write_text(json.dumps(meta | {"model": "acme/Fresh-14B"}))
    done = run("run.py", "--log", tmp_path / "log")
    assert done.returncode == 2
    assert "unknown model 'acme/Fresh-14B'" in done.stderr
    config = {
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 17408,
        "vocab_size": 151_936,
    }
    (tmp_path / "log" / "config.json").write_text(json.dumps(config))
    done = run("run.py", "--log", tmp_path / "log", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["e2e_mape"] == pytest.approx(0, abs=1e-6)


def test_absent_data_is_skipped_with_a_message(run: Any, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for script, option in (("run.py", "--log"), ("points.py", "--points"), ("kernels.py", "--kernels")):
        more = ("--layers", gone) if script == "kernels.py" else ()
        done = run(script, option, gone, *more)
        assert done.returncode == 0, done.stderr
        assert "skipped: no" in done.stdout


def test_points_of_other_engines_are_left_out(run: Any, tmp_path: Path) -> None:
    others = [
        {"backend": "sglang"},
        {"system": "b200_sxm"},
        {"model_path": "Qwen/Qwen3-30B-A3B"},
        {"pp_size": "2"},
    ]
    with gzip.open(tmp_path / "points.csv.gz", "wt", newline="") as packed:
        writer = csv.DictWriter(packed, POINT)
        writer.writeheader()
        writer.writerows([POINT, *({**POINT, **other} for other in others)])
    done = run("points.py", "--points", tmp_path / "points.csv.gz", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["rows"] == 1
    assert list(result["groups"]) == ["Qwen3-32B bf16 2xH100"]
    assert set(result) >= {"ttft_median_abs_err", "tpot_median_abs_err", "median_abs_err", "default_budget"}


@pytest.mark.parametrize("name", ["RTX4090_Llama-3.1-8B", "RTXPRO6000_Llama-3.1-8B"])
def test_real_logs_without_a_fit(run: Any, tmp_path: Path, name: str) -> None:
    if not (SHARED / "vllm-logs" / name).is_dir():
        pytest.skip(f"no real log {name}")
    done = run("run.py", "--log", SHARED / "vllm-logs" / name, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert abs(json.loads((tmp_path / "out.json").read_text())["e2e_mean_err"]) <= 0.10


def test_real_log_fitted_to_its_first_half(run: Any, tmp_path: Path) -> None:
    log = SHARED / "vllm-logs" / "RTXPRO6000_Llama-3.1-8B"
    if not log.is_dir():
        pytest.skip("no real log")
    done = run("run.py", "--log", log, "--fit", "half", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["e2e_mape"] <= 0.03
    assert max(abs(result[f"{key}_mean_err"]) for key in ("ttft", "tpot", "e2e")) <= 0.05


def test_real_points(run: Any, tmp_path: Path) -> None:
    if not (SHARED / "silicon_points.csv.gz").is_file():
        pytest.skip("no silicon points")
    done = run("points.py", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert max(result["ttft_median_abs_err"], result["tpot_median_abs_err"]) <= 0.12


@pytest.fixture
def fidelity(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(repository / "benchmarks/fidelity")
    return importlib.import_module


def test_an_error_in_the_end_to_end_time_is_told_as_engine_speed(fidelity: Callable[[str], Any]) -> None:
    """Beyond capacity a twentieth in speed is far more in waiting, and is found again."""
    cpu = fidelity("vllm_cpu")
    steps, slower = AffineSteps(0.004, 2e-5, 1e-7, 4e-4), AffineSteps(0.0042, 2.1e-5, 1.05e-7, 4.2e-4)
    work = cpu.poisson(30.0, 20.0, 1)
    asked = [
        RequestSample(
            arrival_s=item.arrival_s,
            prompt_tokens=item.prompt_tokens,
            output_tokens=item.output_tokens,
            first_token_s=0.0,
            end_s=0.0,
        )
        for item in work
    ]
    times = play(asked, slower, cpu.CONFIG, request_overhead_s=0.01, async_scheduling=False)
    seen = [
        replace(request, first_token_s=time.first_token_s, end_s=time.end_s)
        for request, time in zip(asked, times, strict=True)
    ]
    assert cpu.simulated(seen, steps, 0.01)["e2e"] < 0.85 * cpu.measured(seen)["e2e"]
    assert cpu.pace(seen, steps, 0.01) == pytest.approx(1.05, abs=0.005)


def test_orders_are_compared_with_the_noise_of_the_measurement(fidelity: Callable[[str], Any]) -> None:
    agreement = fidelity("agreement").agreement
    real = {policy: [float(n), n + 0.2] for n, policy in enumerate("abcdefgh")}
    same = {policy: float(n) for n, policy in enumerate("abcdefgh")}
    assert agreement("goodput", real, same)["tau_goodput"] == pytest.approx(1.0)
    found = agreement("goodput", real, {**same, "a": 1.0, "b": 0.0})
    assert (found["inversions_goodput"], found["inversions_goodput_within_noise"]) == (1, 0)
    noisy = {policy: [n - 1.0, n + 1.0] for n, policy in enumerate("abcdefgh")}
    found = agreement("goodput", noisy, {**same, "a": 7.0, "h": 0.0})
    assert (found["inversions_goodput"], found["inversions_goodput_within_noise"]) == (13, 4)


def test_a_benchmark_goes_on_from_what_it_kept(fidelity: Callable[[str], Any], tmp_path: Path) -> None:
    kept, path = fidelity("kept"), tmp_path / "runs"
    first = kept.Kept(path, {"seconds": 15.0})
    first["a"] = {"ttft": 0.5}
    again = kept.Kept(path, {"seconds": 15.0})
    assert "a" in again
    assert "b" not in again
    assert again["a"] == {"ttft": 0.5}
    with pytest.raises(kept.KeptError, match="other arguments"):
        kept.Kept(path, {"seconds": 18.0})


def test_sessions_of_each_run_are_others(fidelity: Callable[[str], Any]) -> None:
    """What a router remembers of a session in one run must not decide the next one."""
    rank = fidelity("rank")
    trace = rank.workload(4.0, 15.0, 1)
    runs = [set(rank.of_run(trace, number).session.tolist()) for number in (1, 2)]
    assert len(runs[0]) == len(runs[1]) > 1
    assert not runs[0] & runs[1]
