"""GPUs as a probe found them."""

import pytest

from autopoiesis.simulator.hardware import gpu, probed


def test_a_known_gpu_keeps_its_datasheet_and_takes_what_was_reached() -> None:
    found = probed("NVIDIA H100 80GB HBM3", 700e12, 2.5e12, 79 << 30)
    shipped = gpu("H100")
    assert (found.name, found.peak_flops, found.memory_bytes) == (
        "H100",
        shipped.peak_flops,
        shipped.memory_bytes,
    )
    assert found.efficiency.matmul * found.peak_flops == pytest.approx(700e12)
    assert found.efficiency.weights * found.bandwidth == pytest.approx(2.5e12)
    assert found.efficiency.decode_attention == shipped.efficiency.decode_attention


def test_more_than_the_datasheet_promises_is_the_roofline() -> None:
    assert probed("L40S", 1e15, 1e13, 1).efficiency.matmul == 1.0


def test_an_unknown_device_has_just_its_figures() -> None:
    found = probed("CPU", 5e10, 4e9, 24 << 30)
    assert (found.name, found.peak_flops, found.bandwidth, found.memory_bytes) == ("CPU", 5e10, 4e9, 24 << 30)


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="both must be above 0"):
        gpu("H100").measured(0.0, 1.0)
