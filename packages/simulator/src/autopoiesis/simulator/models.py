"""Shapes of transformer models: what step times and memory follow from.

Figures are those of the models' published `config.json`. `from_config` reads any decoder of the Llama, Qwen2, Qwen3, Qwen3-MoE,
Mistral and Mixtral families.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer. `intermediate` is one expert's width where `experts` > 0."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    experts: int = 0
    experts_per_token: int = 0
    tied_embeddings: bool = False
    dtype_bytes: int = 2
    max_context: int = 131_072
    fp8: bool = False
    """The layers' weights and products have 8 bits; the head, activations and the KV cache keep `dtype_bytes`."""
    kv_fp8: bool = False
    """The KV cache has 8 bits."""

    @property
    def attention_params(self) -> int:
        """Weights of the q, k, v and o projections, all layers."""
        return self.layers * self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def mlp_params(self) -> int:
        """Weights of one dense MLP (gated: three matrices) or of one expert, all layers."""
        return self.layers * 3 * self.hidden * self.intermediate

    @property
    def head_params(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocab

    @property
    def params(self) -> int:
        """All weights but norms and biases."""
        mlp = self.mlp_params * max(1, self.experts) + self.layers * self.hidden * self.experts
        return self.attention_params + mlp + self.head_params * (1 if self.tied_embeddings else 2)

    @property
    def active_params(self) -> int:
        """Weights that one token passes in the layers: attention plus the dense MLP or the chosen experts."""
        return self.attention_params + self.mlp_params * max(1, self.experts_per_token)

    @property
    def layer_param_bytes(self) -> int:
        """Bytes of one weight in the layers."""
        return 1 if self.fp8 else self.dtype_bytes

    @property
    def weight_bytes(self) -> int:
        outside = self.head_params * (1 if self.tied_embeddings else 2)
        return (self.params - outside) * self.layer_param_bytes + outside * self.dtype_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * (1 if self.kv_fp8 else self.dtype_bytes)

    @property
    def attention_flops_per_pair(self) -> int:
        """FLOPs for one query token against one context token, all layers."""
        return 4 * self.layers * self.heads * self.head_dim

    def layer_params_read(self, tokens: int) -> float:
        """Layer weights that a step over `tokens` tokens reads: all of a dense model, the experts expected to be hit of an MoE."""
        if not self.experts:
            return self.attention_params + self.mlp_params
        untouched = (1 - self.experts_per_token / self.experts) ** tokens
        return self.attention_params + self.mlp_params * self.experts * (1 - untouched)


MODELS: Final[dict[str, ModelShape]] = {
    shape.name: shape
    for shape in (
        ModelShape("Llama-2-7B", 32, 4096, 11008, 32, 32, 128, 32_000, max_context=4096),
        ModelShape("Llama-2-13B", 40, 5120, 13824, 40, 40, 128, 32_000, max_context=4096),
        ModelShape("Llama-2-70B", 80, 8192, 28672, 64, 8, 128, 32_000, max_context=4096),
        ModelShape("Llama-3-8B", 32, 4096, 14336, 32, 8, 128, 128_256, max_context=8192),
        ModelShape("Llama-3-70B", 80, 8192, 28672, 64, 8, 128, 128_256, max_context=8192),
        ModelShape("Llama-3.2-1B", 16, 2048, 8192, 32, 8, 64, 128_256, tied_embeddings=True),
        ModelShape("Llama-3.2-3B", 28, 3072, 8192, 24, 8, 128, 128_256, tied_embeddings=True),
        ModelShape("Llama-3.3-70B", 80, 8192, 28672, 64, 8, 128, 128_256),
        ModelShape("Mistral-7B", 32, 4096, 14336, 32, 8, 128, 32_768, max_context=32_768),
        ModelShape("Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128_256),
        ModelShape("Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128, 128_256),
        ModelShape(
            "Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 128, 151_936, tied_embeddings=True, max_context=32_768
        ),
        ModelShape(
            "Qwen2.5-3B", 36, 2048, 11008, 16, 2, 128, 151_936, tied_embeddings=True, max_context=32_768
        ),
        ModelShape("Qwen2.5-7B", 28, 3584, 18944, 28, 4, 128, 152_064, max_context=32_768),
        ModelShape("Qwen2.5-14B", 48, 5120, 13824, 40, 8, 128, 152_064, max_context=32_768),
        ModelShape("Qwen2.5-32B", 64, 5120, 27648, 40, 8, 128, 152_064, max_context=32_768),
        ModelShape("Qwen2.5-72B", 80, 8192, 29568, 64, 8, 128, 152_064, max_context=32_768),
        ModelShape(
            "Qwen3-1.7B", 28, 2048, 6144, 16, 8, 128, 151_936, tied_embeddings=True, max_context=40_960
        ),
        ModelShape("Qwen3-4B", 36, 2560, 9728, 32, 8, 128, 151_936, tied_embeddings=True, max_context=40_960),
        ModelShape("Qwen3-14B", 40, 5120, 17408, 40, 8, 128, 151_936, max_context=40_960),
        ModelShape("Qwen3-8B", 36, 4096, 12288, 32, 8, 128, 151_936, max_context=40_960),
        ModelShape("Qwen3-32B", 64, 5120, 25600, 64, 8, 128, 151_936, max_context=40_960),
        ModelShape(
            "Qwen3-30B-A3B",
            48,
            2048,
            768,
            32,
            4,
            128,
            151_936,
            experts=128,
            experts_per_token=8,
            max_context=40_960,
        ),
        ModelShape(
            "Qwen3-235B-A22B",
            94,
            4096,
            1536,
            64,
            4,
            128,
            151_936,
            experts=128,
            experts_per_token=8,
            max_context=40_960,
        ),
        ModelShape(
            "Mixtral-8x7B",
            32,
            4096,
            14336,
            32,
            8,
            128,
            32_000,
            experts=8,
            experts_per_token=2,
            max_context=32_768,
        ),
        ModelShape(
            "Mixtral-8x22B",
            56,
            6144,
            16384,
            48,
            8,
            128,
            32_768,
            experts=8,
            experts_per_token=2,
            max_context=65_536,
        ),
    )
}
"""Known models by name."""


def model(name: str) -> ModelShape:
    """The shape of a known model. Raises `ValueError`.

    An organisation prefix and a suffix such as `-Instruct` do not matter; one that has `FP8` means 8-bit layers.
    """
    plain = name.rsplit("/", 1)[-1].lower().removeprefix("meta-")
    for known in sorted(MODELS, key=len, reverse=True):
        if plain == known.lower() or plain.startswith(known.lower() + "-"):
            quantized = "fp8" in plain[len(known) :].split("-")
            return replace(MODELS[known], fp8=True) if quantized else MODELS[known]
    raise ValueError(
        f"unknown model {name!r}; known are {', '.join(MODELS)}; others by from_config(config.json)"
    )


def from_config(config: Mapping[str, Any], name: str = "") -> ModelShape:
    """The shape in a Hugging Face `config.json`, already parsed. Raises `ValueError` naming the field that is missing or wrong."""
    if "text_config" in config:
        config = config["text_config"]
    hidden = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    experts = _count(config, "num_local_experts") or _count(config, "num_experts")
    intermediate = (
        "moe_intermediate_size" if experts and config.get("moe_intermediate_size") else "intermediate_size"
    )
    return ModelShape(
        name=name or str(config.get("_name_or_path") or config.get("model_type") or "model"),
        layers=_positive(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_positive(config, intermediate),
        heads=heads,
        kv_heads=_count(config, "num_key_value_heads") or heads,
        head_dim=_count(config, "head_dim") or hidden // heads,
        vocab=_positive(config, "vocab_size"),
        experts=experts,
        experts_per_token=_positive(config, "num_experts_per_tok") if experts else 0,
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        dtype_bytes=4 if config.get("torch_dtype", config.get("dtype")) == "float32" else 2,
        max_context=_count(config, "max_position_embeddings") or 131_072,
        fp8=(config.get("quantization_config") or {}).get("quant_method") == "fp8",
    )


def _positive(config: Mapping[str, Any], field: str) -> int:
    value = _count(config, field)
    if not value:
        raise ValueError(f"config.json lacks {field!r}, a positive whole number")
    return value


def _count(config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"config.json: {field} = {value!r}, must be a whole number that is not negative")
    return value
