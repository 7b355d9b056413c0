"""vLLM's KV events, from its core's process to the ledger of blocks."""

from __future__ import annotations

import logging
from typing import Final

import msgspec
import zmq
import zmq.asyncio
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

from autopoiesis.worker.engines.vllm.blocks import BlockLedger

log = logging.getLogger(__name__)

_SEQUENCE_BYTES: Final = 8


async def follow(endpoint: str, ledger: BlockLedger) -> None:
    """Subscribe to the publisher at `endpoint` and keep the ledger, until cancelled.

    Publishing may lose batches under pressure: a gap in their numbers counts as everything having left, which costs the
    routers some knowledge and never invents any.
    """
    decoder = msgspec.msgpack.Decoder(KVEventBatch)
    context = zmq.asyncio.Context.instance()
    socket = context.socket(zmq.SUB)
    expected: int | None = None
    try:
        socket.set_hwm(0)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(endpoint)
        while True:
            _, number, payload = await socket.recv_multipart()
            sequence = int.from_bytes(number[:_SEQUENCE_BYTES], "big")
            if expected is not None and sequence != expected:
                log.warning("KV events %d to %d were lost", expected, sequence - 1)
                ledger.cleared()
            expected = sequence + 1
            for event in decoder.decode(payload).events:
                _apply(event, ledger)
            ledger.settle()
    finally:
        socket.close(linger=0)


def _apply(event: BlockStored | BlockRemoved | AllBlocksCleared, ledger: BlockLedger) -> None:
    match event:
        case BlockStored():
            if not event.extra_keys or not any(
                event.extra_keys
            ):  # adapters, images: their text is not all of the key
                ledger.stored(event.block_hashes, event.parent_block_hash, event.token_ids)
        case BlockRemoved():
            ledger.removed(event.block_hashes)
        case AllBlocksCleared():
            ledger.cleared()
