"""Which devices there are, what they are called, and who has them."""

import json
from importlib import metadata

import pytest

from autopoiesis.worker.devices import CPU, DevicePool
from autopoiesis.worker.engines.vllm import version
from autopoiesis.worker.hardware import Device, kind_of
from autopoiesis.worker.layout import ReplicaSpec, parse_layout
from autopoiesis.worker.programs import VllmFactory
from autopoiesis.worker.settings import VllmSettings


def test_devices_are_taken_and_given_back() -> None:
    pool = DevicePool(["H100", "H100", "L40S"])
    first = pool.take("H100", 2)
    assert (first, pool.visible(first)) == ((0, 1), "0,1")
    assert pool.visible(pool.take("L40S", 1)) == "2"
    with pytest.raises(ValueError, match=r"1 x H100 needed, 0 free \(devices here: 2 x H100, 1 x L40S\)"):
        pool.take("H100", 1)
    pool.give_back(first)
    assert pool.take("H100", 1) == (0,)


def test_the_processor_is_no_cuda_device() -> None:
    pool = DevicePool([CPU, CPU])
    assert pool.visible(pool.take(CPU, 2)) == ""


GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "memory_gib", "kind"),
    [
        ("NVIDIA H200", 140, "H200"),
        ("NVIDIA H100 80GB HBM3", 79, "H100"),
        ("NVIDIA A100-SXM4-80GB", 79, "A100-80"),
        ("NVIDIA A100-SXM4-40GB", 39, "A100-40"),
        ("NVIDIA A10", 22, "A10"),
        ("NVIDIA L40S", 44, "L40S"),
        ("NVIDIA GeForce RTX 4090", 24, "RTX-4090"),
        ("CPU", 24, "CPU"),
        ("Gaudi 3", 128, "Gaudi 3"),
    ],
)
def test_drivers_names_become_ours(name: str, memory_gib: int, kind: str) -> None:
    assert kind_of(Device(name=name, memory_bytes=memory_gib * GIB, flops=1.0, bandwidth=1.0)) == kind


def test_layouts_of_what_is_here() -> None:
    specs = parse_layout("2xcpu", node="n", model="m", kinds=["CPU"])
    assert [(spec.name, spec.gpu) for spec in specs] == [("n-cpu-0", "CPU"), ("n-cpu-1", "CPU")]
    with pytest.raises(ValueError, match=r"worker\.replicas: no H100 here; this machine has CPU"):
        parse_layout("1xH100", node="n", model="m", kinds=["CPU"])


def test_a_replica_becomes_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    settings = VllmSettings(
        python="/opt/vllm/bin/python",
        args="--max-model-len 4096",
        model_args={"llama": "--hf-overrides '{\"a\": 1}'"},
        checkpoints={"llama": "/models/llama"},
        env={"A": "b"},
    )
    factory = VllmFactory(settings, DevicePool(["H100"] * 4), chunk_interval_s=0.0)
    spec = ReplicaSpec(name="r", model="llama", gpu="H100", tp=2, max_running=64)
    program = factory.program(spec, (2, 3))
    assert program.argv == ("/opt/vllm/bin/python", "-m", "autopoiesis.worker.engines.vllm")
    assert program.configure.checkpoint == "/models/llama"
    assert program.configure.arguments == (
        *("--max-model-len", "4096", "--hf-overrides", '{"a": 1}'),
        *("--tensor-parallel-size", "2", "--max-num-seqs", "64"),
    )
    assert program.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert program.env["A"] == "b"
    assert program.env["VLLM_LOGGING_LEVEL"] == "WARNING"


def test_a_plans_roles_are_those_of_the_kv_connector() -> None:
    settings = VllmSettings(kv_transfer={"kv_connector": "NixlConnector"})
    factory = VllmFactory(settings, DevicePool(["H100"]), chunk_interval_s=0.0)
    spec = ReplicaSpec(name="r", model="llama", gpu="H100", role="prefill")
    option, value = factory.program(spec, (0,)).configure.arguments
    assert option == "--kv-transfer-config"
    assert json.loads(value) == {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}


@pytest.mark.parametrize(
    ("found", "good"), [("0.32.0", True), ("0.33.1+cpu", True), ("0.31.9", False), ("0.34.0", False)]
)
def test_only_versions_this_was_written_for(monkeypatch: pytest.MonkeyPatch, found: str, good: bool) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: found)
    if good:
        assert version.supported_version() == found
    else:
        with pytest.raises(
            version.VersionError, match=rf"vllm {found} is installed .* needs vLLM 0\.32 up to"
        ):
            version.supported_version()


def test_no_vllm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(version.VersionError, match=r"has no vLLM; install .* vllm\.python"):
        version.supported_version()
