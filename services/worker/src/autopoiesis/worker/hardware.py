"""What accelerators a machine has and what they reach: measured by `engines.probe` under the Python that has torch."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec

from autopoiesis.simulator.hardware import GPUS
from autopoiesis.worker.devices import CPU

PROBE_TIMEOUT_S: Final = 120.0
"""Importing torch on a cold disk takes most of it; measuring takes about a second per device."""

_GIB: Final = 1 << 30
_SIZES: Final = ("40", "80")
"""Of memory, by which the simulator tells A100 from A100; drivers write them in ways of their own."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One accelerator. `flops` and `bandwidth` (bytes/s of its memory) are what it reached in bf16, not what its maker says."""

    name: str
    """As its driver calls it."""
    kind: str = ""
    """As policies and plans call it."""
    memory_bytes: int
    flops: float
    bandwidth: float


class ProbeError(Exception):
    """The probe did not work; the message says what it printed."""


_devices = msgspec.json.Decoder(list[Device])


async def probe(python: str) -> list[Device]:
    """Measure every accelerator that torch sees under the interpreter `python`; the processor where there is none.

    Raises `ProbeError`.
    """
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        "autopoiesis.worker.engines.probe",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            out, err = await process.communicate()
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise ProbeError(f"the hardware probe took more than {PROBE_TIMEOUT_S:g} s") from error
        raise
    if process.returncode:
        raise ProbeError(
            f"the hardware probe under {python} failed: {err.decode(errors='replace')[-500:].strip()}"
        )
    return [msgspec.structs.replace(device, kind=kind_of(device)) for device in _devices.decode(out)]


def kind_of(device: Device) -> str:
    """The name under which the simulator knows this accelerator, else the driver's own."""
    if device.name == CPU:
        return CPU
    words = set(re.findall(r"[a-z0-9]+", device.name.lower()))
    best: tuple[int, float, str] | None = None
    for gpu in GPUS.values():
        named = re.findall(r"[a-z0-9]+", gpu.name.lower())
        model = named[:1] if len(named) == 2 and named[1] in _SIZES else named
        if set(model) <= words:
            apart = abs(gpu.memory_bytes - device.memory_bytes) / _GIB
            best = max(best or (0, 0.0, ""), (len(model), -apart, gpu.name))
    return best[2] if best else device.name
