"""Router CPU per request and per 16-chunk stream, beside other routers: same mock engines, same load, one run.

`python benchmarks/gateway/run.py [--json FILE] [--engines 8 64] [--only NAME …] [--rounds 3] [--seconds 3]`

Contenders run side by side and are measured in turn, round after round; CPU figures are medians over rounds of the process
time of the router's own process (so they hold on a busy machine; latencies and rates do so only as ratios). Peers are
installed from PyPI into environments of their own under `--peers`; what does not install is skipped, and said to be.

Where `make compiled` has made an environment of today's sources, our router runs in both: `cpu_us_KEY` and `ratio_KEY` are then the
compiled router's, with `…_interpreted` beside. Without it they are the interpreted router's, and there is no other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))

import contenders
import decide
from contenders import Running, Skipped, Stage
from engines import MODEL

PEERS = Path.home() / ".cache" / "autopoiesis-peers"
START_S = 120.0
CONCURRENCY = {"whole": 16, "stream": 64}
RATES = (16, 64, 256)
Row = dict[str, Any]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def cpu_s(process: subprocess.Popen[str]) -> float:
    return sum(sum(member.cpu_times()[:2]) for member in family(process))


def rss_mb(process: subprocess.Popen[str]) -> float:
    return sum(member.memory_info().rss for member in family(process)) / 2**20


def load(
    running: Running | str,
    *more: str,
    concurrency: int,
    seconds: float,
    stream: bool,
    model: str = MODEL,
) -> Row:
    """What `load.py` says; `more` are further arguments of it."""
    url, key = (running, "") if isinstance(running, str) else (running.url, running.key)
    argv = [sys.executable, str(contenders.HERE / "load.py"), "--url", url, "--model", model, *more]
    argv += ["--concurrency", str(concurrency), "--seconds", str(seconds)]
    argv += [*(["--key", key] if key else []), *(["--stream"] if stream else [])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20 * seconds + 60, check=True)
    result: Row = json.loads(done.stdout)
    return result


def await_ready(running: Running, model: str = MODEL, within_s: float = START_S) -> None:
    """Raises Skipped where no request is answered in time."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {running.key or 'none'}"}
    until = time.monotonic() + within_s
    why = "no answer"
    while time.monotonic() < until:
        if running.parts["router"].poll() is not None:
            raise Skipped(f"it ended with {running.parts['router'].returncode}")
        try:
            request = urllib.request.Request(f"{running.url}/v1/chat/completions", body, headers)
            with urllib.request.urlopen(request, timeout=10):
                return
        except (urllib.error.URLError, OSError) as error:
            why = str(error)
        time.sleep(0.25)
    raise Skipped(f"it answers nothing: {why}")


def measure(running: Running, kind: str, mocks: subprocess.Popen[str], seconds: float) -> Row:
    """One round of one contender: microseconds of CPU per request, by part of its path."""
    parts = running.parts | {"engines": mocks}
    before = {name: cpu_s(process) for name, process in parts.items()}
    result = load(running, concurrency=CONCURRENCY[kind], seconds=seconds, stream=kind == "stream")
    spent = {name: cpu_s(process) - before[name] for name, process in parts.items()}
    if result["failed"] or not result["requests"]:
        raise Skipped(f"{result['failed']} of {result['requests']} requests failed")
    return {name: used / result["requests"] * 1e6 for name, used in spent.items()}


def compare(
    urls: list[str], stage: Stage, mocks: subprocess.Popen[str], options: argparse.Namespace
) -> list[Row]:
    stage.urls = urls
    running: list[Running] = []
    for name, start in contenders.ALL.items():
        if options.only and name not in options.only:
            continue
        try:
            one = start(stage)
            await_ready(one)
            running.append(one)
        except Skipped as reason:
            print(f"skipped: {name}: {reason}", file=sys.stderr)
    rows = [_row(one, mocks, options) for one in _in_rounds(running, mocks, options)]
    direct = load(urls[0], concurrency=1, seconds=options.seconds, stream=False)
    for row in rows:
        row["added_p50_us"] = (row.pop("p50_s") - direct["p50_s"]) * 1e6
        row["added_p99_us"] = (row.pop("p99_s") - direct["p99_s"]) * 1e6
    return rows


Samples = dict[str, dict[str, list[float]]]


def _in_rounds(
    running: list[Running], mocks: subprocess.Popen[str], options: argparse.Namespace
) -> list[tuple[Running, Samples]]:
    samples: dict[str, Samples] = {
        one.name: {"whole": defaultdict(list), "stream": defaultdict(list)} for one in running
    }
    left = list(running)
    for one in running:
        load(one, concurrency=16, seconds=0.5, stream=False)
    for _ in range(options.rounds):
        for kind in ("whole", "stream"):
            for one in list(left):
                try:
                    for part, used in measure(one, kind, mocks, options.seconds).items():
                        samples[one.name][kind][part].append(used)
                except (Skipped, subprocess.SubprocessError) as reason:
                    print(f"skipped: {one.name} ({kind}): {reason}", file=sys.stderr)
                    left.remove(one)
    return [(one, samples[one.name]) for one in left]


def _row(measured: tuple[Running, Samples], mocks: subprocess.Popen[str], options: argparse.Namespace) -> Row:
    one, samples = measured
    alone = load(one, concurrency=1, seconds=options.seconds, stream=False)
    row: Row = {"name": one.name, "peer": one.peer, "p50_s": alone["p50_s"], "p99_s": alone["p99_s"]}
    for kind, key in (("whole", "request"), ("stream", "stream")):
        medians = {part: statistics.median(used) for part, used in samples[kind].items()}
        row[f"cpu_us_{key}"] = medians["router"]
        row[f"path_us_{key}"] = sum(medians.values())
        row[f"spread_us_{key}"] = max(samples[kind]["router"]) - min(samples[kind]["router"])
    for concurrency in RATES:
        result = load(one, concurrency=concurrency, seconds=options.seconds, stream=False)
        row[f"rate_{concurrency}"] = result["requests"] / result["seconds"]
    row["rss_mb"] = rss_mb(one.parts["router"])
    return row


def ratios(rows: list[Row]) -> Row:
    """The figures by which we are judged; none where that contender is missing."""
    interpreted = _ratios(rows, "")
    if not any(row["name"] == "ours-direct-compiled" for row in rows):
        return interpreted
    return _ratios(rows, "-compiled") | {f"{key}_interpreted": value for key, value in interpreted.items()}


def _ratios(rows: list[Row], variant: str) -> Row:
    ours = next((row for row in rows if row["name"] == f"ours-direct{variant}"), None)
    whole_path = next((row for row in rows if row["name"] == f"ours-over-nats{variant}"), None)
    rust = [row for row in rows if row["peer"] and row["name"] != "litellm"]
    slow = next((row for row in rows if row["name"] == "litellm"), None)
    found: Row = {}
    for key in ("request", "stream"):
        found[f"cpu_us_{key}"] = ours and ours[f"cpu_us_{key}"]
        best = min((row[f"cpu_us_{key}"] for row in rust), default=None)
        found[f"ratio_to_best_peer_{key}"] = ours and best and ours[f"cpu_us_{key}"] / best
        path = min((row[f"path_us_{key}"] for row in rust), default=None)
        found[f"ratio_whole_path_{key}"] = whole_path and path and whole_path[f"path_us_{key}"] / path
    found["ratio_to_litellm"] = ours and slow and slow["cpu_us_request"] / ours["cpu_us_request"]
    return found


COLUMNS = (
    ("cpu_us_request", "µs/req"),
    ("cpu_us_stream", "µs/stream"),
    ("path_us_request", "path/req"),
    ("path_us_stream", "path/stream"),
    ("added_p50_us", "+p50 µs"),
    ("added_p99_us", "+p99 µs"),
    *((f"rate_{concurrency}", f"req/s c{concurrency}") for concurrency in RATES),
    ("rss_mb", "MB"),
)


def show(engines: int, rows: list[Row]) -> None:
    print(f"\n{engines} engines, 1,000-token prompts; path: router, bus, worker or engine server together")
    print(f"{'':28}" + "".join(f"{title:>12}" for _, title in COLUMNS))
    for row in rows:
        print(f"{row['name']:28}" + "".join(f"{row[key]:12,.0f}" for key, _ in COLUMNS))


def one_fleet(engines: int, options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="gateway-") as directory:
        stage = Stage(Path(directory), options.peers)
        try:
            mocks = stage.python("engines.py", "--count", str(engines), pipe=True)
            assert mocks.stdout is not None
            urls: list[str] = json.loads(mocks.stdout.readline())["urls"]
            return compare(urls, stage, mocks, options)
        finally:
            stage.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engines", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--only", nargs="+", choices=list(contenders.ALL))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peers", type=Path, default=PEERS)
    options = parser.parse_args()
    fleets = {}
    for engines in options.engines:
        fleets[engines] = one_fleet(engines, options)
        show(engines, fleets[engines])
    result = ratios(fleets[options.engines[0]])
    result["fleets"] = {str(engines): rows for engines, rows in fleets.items()}
    result["decision_us_by_replicas"] = decide.by_replicas()
    result["queue_of_10000"] = decide.by_queue()
    for key, value in result.items():
        if key != "fleets":
            print(f"{key}: {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
