"""Rolling statistics of a window of arrivals: rates, lengths, burstiness, attainment, per class."""

from collections.abc import Iterator

import msgspec
import numpy as np

from autopoiesis.observer.recent import Columns, RecentArrivals


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of one set of arrivals over `seconds`. Shares are of all arrivals, so a reject counts as a miss."""

    arrivals: int
    arrival_rate: float
    """Requests per s."""
    burstiness: float | None = None
    """Coefficient of variation of inter-arrival times: 1 for a Poisson process; none below three arrivals."""
    prompt_tokens_mean: float | None = None
    prompt_tokens_p95: float | None = None
    output_tokens_mean: float | None = None
    """Of answers that were not cut short."""
    output_tokens_p95: float | None = None
    censored: float = 0.0
    attainment: float | None = None
    """Share that met its objectives."""
    goodput: float = 0.0
    """Requests per s that met their objectives."""
    rejected: float = 0.0
    fallback: float = 0.0
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p95_s: float | None = None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Arrivals of one scope with start <= time < end (Unix seconds)."""

    scope: str
    start_unix_s: float
    end_unix_s: float
    overall: Statistics
    classes: dict[str, Statistics]
    epochs: tuple[int, ...]
    """Activations that decided in it."""


def _quantile(values: Columns, q: float) -> float | None:
    values = values[~np.isnan(values)]
    return float(np.quantile(values, q)) if values.size else None


def _mean(values: Columns) -> float | None:
    return float(values.mean()) if values.size else None


def burstiness(arrivals_unix_s: Columns) -> float | None:
    """Coefficient of variation of the gaps between sorted arrivals; none below three arrivals or without time passing."""
    if arrivals_unix_s.size < 3:
        return None
    gaps = np.diff(arrivals_unix_s)
    return float(gaps.std() / gaps.mean()) if gaps.mean() > 0 else None


def statistics(rows: Columns, seconds: float) -> Statistics:
    """Of `rows` (dtype `recent.ROW`, by time) seen within `seconds`."""
    if not rows.size:
        return Statistics(arrivals=0, arrival_rate=0.0)
    prompts = rows["prompt_tokens"].astype("f8")
    outputs = rows["output_tokens"][rows["finished"] & ~rows["censored"]].astype("f8")
    return Statistics(
        arrivals=rows.size,
        arrival_rate=rows.size / seconds,
        burstiness=burstiness(rows["arrival_unix_s"]),
        prompt_tokens_mean=_mean(prompts),
        prompt_tokens_p95=_quantile(prompts, 0.95),
        output_tokens_mean=_mean(outputs),
        output_tokens_p95=_quantile(outputs, 0.95),
        censored=float(rows["censored"].mean()),
        attainment=float(rows["met"].mean()),
        goodput=float(rows["met"].sum()) / seconds,
        rejected=float(rows["rejected"].mean()),
        fallback=float(rows["fallback"].mean()),
        ttft_p50_s=_quantile(rows["ttft_s"], 0.5),
        ttft_p95_s=_quantile(rows["ttft_s"], 0.95),
        tpot_p50_s=_quantile(rows["tpot_s"], 0.5),
        tpot_p95_s=_quantile(rows["tpot_s"], 0.95),
    )


def window(scope: str, recent: RecentArrivals, start_unix_s: float, end_unix_s: float) -> Window:
    rows = recent.between(start_unix_s, end_unix_s)
    seconds = end_unix_s - start_unix_s
    return Window(
        scope=scope,
        start_unix_s=start_unix_s,
        end_unix_s=end_unix_s,
        overall=statistics(rows, seconds),
        classes={
            name: statistics(rows[rows["klass"] == code], seconds)
            for code, name in enumerate(recent.classes)
            if (rows["klass"] == code).any()
        },
        epochs=tuple(int(e) for e in np.unique(rows["epoch"])),
    )


def windows(
    scope: str, recent: RecentArrivals, start_unix_s: float, end_unix_s: float, step_s: float
) -> Iterator[Window]:
    """Successive windows of `step_s` seconds, aligned to multiples of it, the last whole one ending before the end."""
    at = start_unix_s - start_unix_s % step_s
    while at + step_s <= end_unix_s:
        yield window(scope, recent, at, at + step_s)
        at += step_s
