"""From words on the command line to policies, objectives and a fleet; what is wrong is named, with what would be right."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from autopoiesis.cli.output import CommandError
from autopoiesis.policy import library
from autopoiesis.policy.language import PolicyError, compile_policy
from autopoiesis.simulator import Trace, load_trace
from autopoiesis.simulator.api import SLO, Fleet
from autopoiesis.simulator.models import ModelShape, from_config
from autopoiesis.simulator.models import model as known_model
from autopoiesis.simulator.moves import spot_fleet
from autopoiesis.simulator.workload.spot import load_spot

Shipped = Literal["all", "rivals", "none"]

_SLO = re.compile(r"(?:(?P<klass>[^:=,]+):)?(?P<limits>[^:]+)")
_LIMIT = re.compile(r"\s*(ttft|tpot|priority)\s*=\s*(\d+\.?\d*|\.\d+)\s*(ms|s|)\s*")


def traffic(path: Path, failed: Literal["drop", "keep", "error"], seconds: float | None) -> Trace:
    """A trace whose times begin at zero, its first `seconds` alone where they are given. Raises CommandError, TraceError."""
    whole = load_trace(path, failed=failed)
    start = float(whole.arrival[0])
    whole = whole.shifted(-start)
    if seconds is None:
        return whole
    part = whole.between(0.0, seconds)
    if len(part) < 2:
        raise CommandError(f"--seconds {seconds:g}: only {len(part)} of the requests arrive in that time")
    return part


def policies(given: Sequence[str], shipped: Shipped, *, option: str = "--policy") -> dict[str, str]:
    """Source by label: the shipped ones, then those given (files or shipped names), each verified. Raises CommandError."""
    every = library.names("dispatch", every=True)
    named = {"all": every, "rivals": library.names("dispatch"), "none": ()}[shipped]
    out = {name: library.source(name) for name in named}
    for item in given:
        if item in every:
            out[item] = library.source(item)
            continue
        file = Path(item)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise CommandError(
                f"{option} {item}: {reason}; give a file, or a shipped one of {', '.join(every)}"
            ) from error
        try:
            compile_policy(text, "dispatch")
        except PolicyError as error:
            raise CommandError(f"{option} {item}: {error}") from error
        out[file.stem if file.stem not in out else item] = text
    if not out:
        raise CommandError("--shipped none leaves no policy: name some with --policy")
    return out


def goals(texts: Sequence[str]) -> SLO | dict[str, SLO] | None:
    """`ttft=2,tpot=100ms`, or the same behind `class:`. None without any. Raises CommandError."""
    out: dict[str, SLO] = {}
    for text in texts:
        found = _SLO.fullmatch(text)
        limits = [_LIMIT.fullmatch(part) for part in found["limits"].split(",")] if found else []
        if not found or not limits or not all(limits):
            raise CommandError(
                f"--slo {text!r}: must be like ttft=2,tpot=100ms or chat:ttft=500ms,tpot=50ms,priority=0"
            )
        values = {m[1]: float(m[2]) / (1000.0 if m[3] == "ms" else 1.0) for m in limits if m}
        out[found["klass"] or ""] = SLO(
            ttft_s=values.get("ttft"), tpot_s=values.get("tpot"), priority=int(values.get("priority", 0))
        )
    if list(out) == [""]:
        return out[""]
    if "" in out:
        raise CommandError("--slo: name the class of each, as in chat:ttft=2, where there is more than one")
    return out or None


def loads(texts: Sequence[str]) -> tuple[float, ...]:
    """Numbers apart or with commas between, rising. Raises CommandError."""
    try:
        found = sorted({float(part) for text in texts for part in text.split(",")})
    except ValueError as error:
        raise CommandError(f"--load {' '.join(texts)}: {error}") from error
    if found[0] <= 0:
        raise CommandError(f"--load {found[0]:g}: must be above 0; 1 is the traffic as recorded")
    return tuple(found)


def fleet(
    spec: str | None, spot: str | None, membership: Path | None, *, notice_s: float, span_s: float, model: str
) -> Fleet:
    """Replicas that stay, and spot replicas that come and go as the file says. Raises CommandError."""
    if (spot is None) != (membership is None):
        raise CommandError("--spot and --membership belong together: which replicas come and go, and when")
    if spec is None and spot is None:
        raise CommandError("--fleet is needed, for instance --fleet '2xH100 + 4xL40S'")
    try:
        shape = _shape(model)
        standing = Fleet.parse(spec, shape) if spec else None
        if spot is None or membership is None:
            assert standing is not None
            return standing
        moving = Fleet.parse(spot, shape).replicas
        if len({(r.gpu, r.tp) for r in moving}) > 1:
            raise CommandError(f"--spot {spot}: one kind of replica, for instance 8xL4")
        coming = spot_fleet(
            load_spot(membership), moving[0], notice_s=notice_s, nodes=len(moving), span_s=span_s
        )
    except ValueError as error:
        raise CommandError(str(error)) from error
    return Fleet((*(standing.replicas if standing else ()), *coming.replicas), coming.changes)


def _shape(named: str) -> ModelShape:
    """A known model, or the one that a `config.json` describes. Raises CommandError or ValueError."""
    if not named.endswith(".json"):
        return known_model(named)
    try:
        config = msgspec.json.decode(Path(named).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise CommandError(f"--model {named}: not a config.json: {error}") from error
    return from_config(config)
