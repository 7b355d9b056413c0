"""What accelerators a machine has and what they reach: measured by `engines.probe` under the Python that has torch."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from autopoiesis.simulator.hardware import gpu

PROBE_TIMEOUT_S: Final = 120.0
"""Importing torch on a cold disk takes most of it; measuring takes about a second per device."""


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
    try:
        return gpu(device.name).name
    except ValueError:
        return device.name
