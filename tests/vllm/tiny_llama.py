"""Writes a small Llama with random weights and a tokenizer of its own to a folder, in the format of any other checkpoint.

`python tiny_llama.py FOLDER [--layers N] [--hidden N] [--seed N] [--words FILE]`, under the Python that has vLLM. Nothing is downloaded.
"""

import argparse
from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = (
    "the quick brown fox jumps over the lazy dog while a replica streams tokens to many clients at once",
    "a policy decides where each request goes, which one goes first, and when to hold or to reject it",
    "0123456789 {} [] () , . : ; ! ? true false null name value key list text",
)
VOCABULARY = 1024


def make_tokenizer(words: str):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"]
    plain.train_from_iterator(
        [*CORPUS, words],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<|bos|>", eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def write(
    folder: Path, *, layers: int = 4, hidden: int = 64, seed: int = 0, context: int = 4096, words: str = ""
) -> None:
    """`words`: text that the tokenizer shall know well, besides its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=Path)
    options = parser.parse_args()
    write(
        options.folder,
        layers=options.layers,
        hidden=options.hidden,
        seed=options.seed,
        words=options.words.read_text() if options.words else "",
    )
