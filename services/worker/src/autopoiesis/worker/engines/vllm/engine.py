"""Loads vLLM: its engine, its OpenAI application around it, and the events of its cache."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from autopoiesis.contracts.messages.infer import Generate
from autopoiesis.worker.engines.frames import Configure
from autopoiesis.worker.engines.vllm.blocks import BlockLedger
from autopoiesis.worker.engines.vllm.events import follow
from autopoiesis.worker.engines.vllm.llm import ResumingLLM
from autopoiesis.worker.engines.vllm.observer import Observer

log = logging.getLogger(__name__)


class ArgumentsError(Exception):
    """A model or arguments (`vllm.args`) that vLLM does not take; the message is vLLM's own."""


@dataclass(frozen=True)
class Loaded:
    """A running engine."""

    llm: ResumingLLM
    app: Any
    """vLLM's ASGI application."""
    observer: Observer
    ledger: BlockLedger
    following: asyncio.Task[None] | None
    sleeps: bool
    """Its memory can be given back and taken again."""

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(self.app.state.openai_serving_models.lora_requests)

    def close(self) -> None:
        if self.following is not None:
            self.following.cancel()
        self.llm.shutdown(timeout=0)


def arguments(configure: Configure, events_endpoint: str) -> Namespace:
    """Ours first, so that the operator's win. Raises `ArgumentsError`."""
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": events_endpoint}
    ours = [
        *(configure.checkpoint, "--served-model-name", configure.model),
        *("--scheduling-policy", "priority"),
        "--enable-prompt-tokens-details",
        "--enable-logging-iteration-details",
        *(("--kv-events-config", json.dumps(events)) if configure.block_reports else ()),
        *(("--enable-sleep-mode",) if configure.sleeps and _can_sleep() else ()),
    ]
    parser = make_arg_parser(_Parser(description="vLLM"))
    found: Namespace = parser.parse_args([*ours, *configure.arguments])
    found.model = found.model_tag
    return found


def _can_sleep() -> bool:
    """VLLM refuses to start with sleep mode on a platform that lacks it."""
    if current_platform.is_sleep_mode_available():
        return True
    log.warning("vLLM has no sleep mode on this platform: engines end where they could sleep")
    return False


def args_text(configure: Configure) -> str:
    return shlex.join(configure.arguments) or "no arguments"


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    def error(self, message: str) -> Any:
        raise ArgumentsError(f"vllm.args: {message}")


async def load(configure: Configure, progress: Callable[[float], None]) -> Loaded:
    """Raises `ArgumentsError`, and whatever vLLM raises."""
    endpoint = f"ipc://@autopoiesis-vllm-events-{os.getpid()}"  # abstract: no file is left behind
    args = arguments(configure, endpoint)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    try:
        config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    except (ValueError, OSError) as error:
        raise ArgumentsError(
            f"vLLM cannot run {configure.checkpoint} with {args_text(configure)}: {error}"
        ) from error
    progress(0.3)
    observers: list[Observer] = []

    def observe(config: Any, engine_index: int = 0) -> Observer:
        observers.append(Observer(config, engine_index))
        return observers[-1]

    llm = ResumingLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[observe],
        disable_log_stats=engine_args.disable_log_stats,
    )
    llm.follow_clock()
    observers[0].clock = lambda: (llm.scheduled_at, llm.step_ended_at)
    progress(0.9)
    tasks = await llm.get_supported_tasks()
    app = build_app(args, tasks, llm.model_config)
    await init_app_state(llm, app.state, args, tasks)
    ledger = BlockLedger(config.cache_config.block_size, time.monotonic)
    following = None
    if configure.block_reports:
        following = asyncio.create_task(follow(endpoint, ledger), name="KV events")
        llm.on_prompt = _note_prompt(ledger)
    return Loaded(llm, app, observers[0], ledger, following, engine_args.enable_sleep_mode)


def _note_prompt(ledger: BlockLedger) -> Callable[[Generate, list[int]], None]:
    def note(request: Generate, token_ids: list[int]) -> None:
        ledger.prompt(token_ids, request.block_hashes)

    return note
