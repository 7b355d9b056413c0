"""Router to worker and back: one request, its chunks, and how it ended."""

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    MaybeRaw = msgspec.Raw | None
else:
    MaybeRaw = msgspec.Raw  # msgspec reads Raw in no union; what is left out on the wire stays None

Endpoint = Literal[
    "chat",
    "completions",
    "passthrough",  # any other endpoint of the engine, named by `Generate.path`: its answer goes back as it came
    "relay",  # any other request, with `method` and a body of `content_type`: only for servers attached to the router
]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
FailureCode = Literal[
    "invalid_request",  # the engine refused the request; `param` names the field
    "unavailable",  # no engine to run it: replica gone, draining, not loaded
    "overloaded",  # the engine's own queue is full
    "deadline",  # the deadline passed
    "cancelled",  # the client left
    "internal",  # the engine failed
]


class Generate(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Run one request. Sent to `infer.<replica>` with the router's inbox as reply subject."""

    request_id: str
    router: str
    nth: int
    """How many requests this router has sent to this replica, this one included: heartbeats acknowledge it."""
    model: str
    endpoint: Endpoint
    body: msgspec.Raw
    """The client's JSON body, untouched."""
    stream: bool
    prompt_tokens: int
    """The router's estimate."""
    max_tokens: int
    priority: int = 0
    """Lower goes first in the engine's own queue."""
    deadline_s: float | None = None
    """Seconds from now until the answer is worthless, or none."""
    block_hashes: tuple[int, ...] = ()
    """Rolling hashes of the prompt's blocks, keyed per installation."""
    resume_token_ids: tuple[int, ...] = ()
    """Tokens that the client already has, when another replica failed mid-stream.

    The answer goes on behind them; `max_tokens` and the counts of `Finished` include them, as if one engine had done it all.
    """
    path: str = ""
    """HTTP path at the engine, of requests that are passed through; with the query of those that are relayed."""
    method: str = "POST"
    content_type: str = ""
    """Of a body that is relayed."""
    prefill_only: bool = False
    """Compute the prompt and keep its KV cache for the replica that decodes; one `Finished` without text is the answer."""
    kv_transfer: MaybeRaw = None
    """JSON object: where the prompt's KV cache is, in the words of the engine that computed it (`Finished.kv_transfer`)."""


class Cancel(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Stop generating. Sent to `infer.<replica>.cancel`."""

    request_id: str
    reason: FailureCode = "cancelled"


class Chunk(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="chunk", omit_defaults=True):
    """Tokens of one stream since the last chunk; `seq` rises by one from 0, the typed last message included."""

    seq: int
    text: str = ""
    tokens: int = 0
    token_ids: tuple[int, ...] = ()
    index: int = 0
    """Choice index."""
    delta: MaybeRaw = None
    """OpenAI delta object, where text alone does not say it (tools)."""
    choice: MaybeRaw = None
    """OpenAI's whole choice object, where text and delta do not say it (log-probabilities, an engine's extras)."""
    finish_reason: FinishReason | None = None
    """This choice ended so; needed only where choices end differently. `choice`, if there is one, does not say it."""

    @property
    def empty(self) -> bool:
        """Only a sign of life."""
        said = self.tokens or self.text or self.finish_reason
        return not said and self.delta is None and self.choice is None


class Finished(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="finished", omit_defaults=True):
    """The last message of a request that ended well. Without streaming, the only one: `text` is then the whole answer."""

    seq: int
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    """Of the whole answer; `resume_token_ids` count as output, not as prompt."""
    cached_tokens: int = 0
    text: str = ""
    first_token_s: float = 0.0
    """Seconds from receipt at the worker to the first token."""
    body: MaybeRaw = None
    """The engine's own complete answer, for engines that speak OpenAI."""
    content: bytes = b""
    """The engine's own complete answer where it is not JSON."""
    content_type: str = ""
    """Of `content`."""
    kv_transfer: MaybeRaw = None
    """JSON object of a `prefill_only` request: what the engine that decodes needs to fetch the prompt's KV cache."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="failed"):
    """The last message of a request that did not end well."""

    seq: int
    code: FailureCode
    message: str
    param: str | None = None
    output_tokens: int = 0
    status: int = 0
    """The engine's HTTP status where it gave one that says more than `code`."""
    leaving: bool = False
    """The replica was told to go: with `unavailable`, that it did not end this request is no failure of its own."""


Reply = Chunk | Finished | Failed
