"""Hardware, model shapes, step times and KV capacity."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopoiesis.simulator.hardware import GPUS, Efficiency, gpu
from autopoiesis.simulator.models import MODELS, from_config, model
from autopoiesis.simulator.steptime import AffineSteps, StepTime, kv_capacity_tokens

CHUNKS = st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 100_000)), max_size=4)


@pytest.mark.parametrize("name", ["h100", "NVIDIA H100 SXM", "H100 SXM5", "H100"])
def test_gpu_names_are_forgiving(name: str) -> None:
    assert gpu(name).name == "H100"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown GPU type 'B9000'.*H100"):
        gpu("B9000")
    with pytest.raises(ValueError, match=r"unknown model 'gpt-9'.*Llama-3\.1-8B"):
        model("gpt-9")


def test_model_names_may_have_organisation_and_suffix() -> None:
    assert model("meta-llama/Llama-3.1-8B-Instruct").name == "Llama-3.1-8B"
    assert model("llama-3.1-8b").name == "Llama-3.1-8B"


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("Llama-3.1-8B", 8.03, 6.98),
        ("Llama-3.1-70B", 70.6, 68.5),
        ("Qwen3-30B-A3B", 30.5, 2.7),
        ("Mixtral-8x7B", 46.7, 12.6),
    ],
)
def test_parameter_counts(name: str, billions: float, active: float) -> None:
    shape = MODELS[name]
    assert shape.params / 1e9 == pytest.approx(billions, rel=0.01)
    assert shape.active_params / 1e9 == pytest.approx(active, rel=0.02)


def test_kv_bytes_per_token_are_those_of_the_literature() -> None:
    sizes = {name: MODELS[name].kv_bytes_per_token for name in ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B")}
    assert sizes == {"Llama-3.1-8B": 131_072, "Llama-3.1-70B": 327_680, "Qwen3-32B": 262_144}


def test_config_json_gives_the_table_entry() -> None:
    config = {
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_hidden_layers": 48,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "intermediate_size": 6144,
        "vocab_size": 151_936,
        "max_position_embeddings": 40_960,
        "tie_word_embeddings": False,
    }
    assert from_config(config, "Qwen3-30B-A3B") == MODELS["Qwen3-30B-A3B"]


def test_config_json_that_lacks_a_field_says_which() -> None:
    with pytest.raises(ValueError, match="'num_hidden_layers'"):
        from_config({"hidden_size": 64, "num_attention_heads": 4})
    with pytest.raises(ValueError, match="hidden_size = 'big'"):
        from_config({"hidden_size": "big"})


@given(
    st.sampled_from(sorted(GPUS)),
    st.sampled_from(sorted(MODELS)),
    st.sampled_from([1, 2, 4]),
    CHUNKS,
    st.integers(0, 512),
    st.integers(0, 2_000_000),
)
def test_no_step_beats_the_roofline(
    chip: str, shape: str, tp: int, chunks: list[tuple[int, int]], decodes: int, kv: int
) -> None:
    steps = StepTime(gpu(chip), model(shape), tp)
    sampled = decodes + len(chunks)
    took = steps.step(chunks, decodes, kv, sampled)
    assert took >= steps.lower_bound(chunks, decodes, kv, sampled) * (1 - 1e-12)
    assert took > 0


@given(st.integers(1, 256), st.integers(1, 1_000_000), st.integers(1, 500))
def test_decode_steps_are_affine_in_kv_tokens(batch: int, kv: int, more: int) -> None:
    steps = StepTime(gpu("H100"), model("Llama-3.1-8B"))
    grown = steps.step([], batch, kv + more, batch) - steps.step([], batch, kv, batch)
    assert grown == pytest.approx(more * steps.per_kv_token, rel=1e-6)


def test_prefill_of_a_long_prompt_matches_measured_kernels() -> None:
    """Measured vLLM kernels (aiconfigurator) add up to 43.5 ms for 2048 and 311 ms for 4096 tokens."""
    h100, l40s = (StepTime(gpu(name), model("Llama-3.1-8B")) for name in ("H100", "L40S"))
    assert h100.step([(2048, 0)], 0, 0, 1) == pytest.approx(0.0435, rel=0.15)
    assert l40s.step([(4096, 0)], 0, 0, 1) == pytest.approx(0.311, rel=0.15)


def test_tensor_parallelism_helps_on_nvlink_and_hurts_on_pcie() -> None:
    def step(chip: str, tp: int) -> float:
        return StepTime(gpu(chip), model("Llama-3.1-70B"), tp).step([(2048, 0)], 0, 0, 1)

    assert step("H100", 4) < step("H100", 2) < step("H100", 1)
    assert step("L40S", 4) > step("L40S", 2)


def test_tp_must_divide_the_heads() -> None:
    with pytest.raises(ValueError, match="tp = 3"):
        StepTime(gpu("H100"), model("Llama-3.1-8B"), 3)


def test_kv_capacity_of_a_real_engine() -> None:
    """vLLM 0.19 on an RTX 4090 has 41,408 tokens for Llama-3.1-8B."""
    tokens = kv_capacity_tokens(gpu("RTX-4090"), model("Llama-3.1-8B"), max_batched_tokens=2048)
    assert tokens == pytest.approx(41_408, rel=0.02)
    assert tokens % 16 == 0


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Llama-3\.1-70B does not fit on 1 x L4"):
        kv_capacity_tokens(gpu("L4"), model("Llama-3.1-70B"))


def test_efficiencies_are_shares() -> None:
    with pytest.raises(ValueError, match="efficiency weights"):
        Efficiency(0.5, 1.2, 0.5, 0.5)


def test_scale_multiplies_every_step() -> None:
    plain, slow = (StepTime(gpu("L4"), model("Qwen3-8B"), scale=scale) for scale in (1.0, 1.5))
    work = ([(300, 40)], 7, 9000, 8)
    assert slow.step(*work) == pytest.approx(1.5 * plain.step(*work))


def test_coefficients_describe_steps_near_a_full_chunk() -> None:
    steps = StepTime(gpu("H100"), model("Llama-3.1-8B"))
    base, prefill, kv, sequence = steps.step_coefficients(2048)
    assert base + 2048 * prefill == pytest.approx(steps.step([(2048, 0)], 0, 0, 1), rel=1e-6)
    assert base + 63 * sequence + 50_000 * kv == pytest.approx(steps.step([], 64, 50_000, 64), rel=0.02)


def test_affine_steps_follow_their_coefficients() -> None:
    steps = AffineSteps(0.01, 1e-5, 1e-8, 1e-6)
    assert math.isclose(steps.step([(100, 50)], 4, 1000, 5), 0.01 + 99e-5 + 5e-6 + 1e-5, rel_tol=1e-9)
    with pytest.raises(ValueError, match="base"):
        AffineSteps(0.0, 1e-5, 1e-8, 1e-6)
