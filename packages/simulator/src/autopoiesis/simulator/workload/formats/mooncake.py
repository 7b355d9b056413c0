"""Mooncake FAST'25 traces (kvcache-ai/Mooncake, Apache-2.0) and Qwen-Bailian ones, which look alike: prompts as chained block hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopoiesis.simulator.workload.rows import Columns, Failed, json_rows, number_in, tokens_in
from autopoiesis.simulator.workload.trace import Trace, TraceError

SIGNATURE = ("timestamp", "input_length", "output_length", "hash_ids")
MOONCAKE_BLOCK, BAILIAN_BLOCK = 512, 16


def load(path: Path, failed: Failed) -> Trace:
    """Mooncake times are milliseconds, blocks 512 tokens; rows with a `chat_id` (Bailian) are seconds and 16 tokens."""
    columns = Columns(path, failed)
    hashes: list[tuple[int, ...]] = []
    sessions: list[int] = []
    roots: dict[Any, int] = {}
    block = MOONCAKE_BLOCK
    for line, row in json_rows(path, SIGNATURE):
        bailian = "chat_id" in row
        block = BAILIAN_BLOCK if bailian else MOONCAKE_BLOCK
        at = number_in(row, "timestamp", path, line) * (1.0 if bailian else 1e-3)
        prompt, output = (
            tokens_in(row, "input_length", path, line),
            tokens_in(row, "output_length", path, line),
        )
        ids = row["hash_ids"]
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise TraceError(path, line, "hash_ids must be a list of whole numbers")
        chats = [row.get("chat_id"), row.get("parent_chat_id")]
        if not all(chat is None or isinstance(chat, int | str) for chat in chats):
            raise TraceError(path, line, "chat_id and parent_chat_id must be numbers or texts")
        if columns.add(line, at, prompt, output):
            hashes.append(tuple(ids[: prompt // block]))
            root = roots.get(row.get("parent_chat_id"))
            sessions.append(0 if not bailian else root or len(roots) + 1)
            if bailian:
                roots[row["chat_id"]] = sessions[-1]
    return Trace.of(
        path.name,
        columns.times_from_zero(),
        columns.prompt,
        columns.output,
        censored=columns.censored,
        session=sessions,
        block_hashes=hashes,
        block_tokens=block,
        dropped=columns.dropped,
    )
