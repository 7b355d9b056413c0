"""What an operator can set."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec

from autopoiesis.contracts.messages.policy import Kind
from autopoiesis.policy.api import KINDS
from autopoiesis.runtime.settings import Port, Secret, Section
from autopoiesis.synthesizer.budget import Limits


class SynthesizerSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "synthesizer"
    host: str = "127.0.0.1"
    port: Port = 0
    """Of health and metrics; 0 takes a free one."""
    kinds: tuple[Kind, ...] = KINDS
    """Of policies that are searched."""
    cycle_s: float = 60.0
    """Seconds that one cycle may take, from a snapshot to its proposals."""
    candidates: int = 400
    """Policies that one cycle scores at most."""
    calls: int = 12
    """Calls of the language model per cycle."""
    tokens: int = 400_000
    """Prompt and completion tokens per cycle."""
    cost: float = 1.0
    """Money per cycle, by the prices under `llm`."""
    cost_per_day: float = 10.0
    """Money in any 24 hours, over all scopes and kinds; looked at when a cycle begins."""
    ask: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Questions to the language model that are open at the same time."""
    propose: int = 3
    """Candidates handed to the evaluator per cycle, at most."""
    min_gain: float = 0.01
    """Least relative goodput gain over the incumbent on the open blocks for a proposal."""
    population: int = 8
    """Candidates per generation."""
    islands: int = 1
    """Populations that breed apart; more than one pays where a cycle has many generations."""
    loads: tuple[float, ...] = (0.9, 1.0, 1.15, 1.3)
    """Multiples of the recorded load at which candidates are scored; the last tells good from better where all do well."""
    arrivals: int = 3000
    """Arrivals that candidates are scored on: the newest of the open snapshot."""
    max_rejected: float = 0.1
    """Share of arrivals that a proposal may reject, at any load; as the evaluator's."""
    max_class_loss: float = 0.05
    """Attainment that no class may lose against the incumbent, at any load; as the evaluator's."""
    max_fuel: float = 50_000.0
    """Mean fuel per request; as the evaluator's."""
    initial: str = "round_robin"
    """Shipped policy that counts as in force where nothing ever was; as `router.policy`."""
    initial_plan: str = "plan_keep"
    """The same of plan policies; as `planner.policy`."""
    plan_cycle_s: float = 300.0
    """Seconds that one cycle of plan policies may take. They are searched beside dispatch policies, where a planner is at work."""
    plan_candidates: int = 60
    """Plan policies that one cycle scores at most; calls, tokens and cost are bounded as for dispatch policies."""
    plan_loads: tuple[float, ...] = (1.0, 1.15)
    """Multiples of the recorded load at which plan policies are scored."""
    plan_arrivals: int = 20_000
    """Arrivals that plan policies are scored on: whole regimes, where dispatch policies need only the newest."""
    jobs: int = 1
    """Replays that run at the same time."""
    replay_s: float = 20.0
    """Seconds after which one replay of a candidate is ended."""
    seed: int = 0
    """Of the offline mutator; the cycle's snapshot is mixed in."""
    archive_size: int = 200
    """Policies kept per scope and kind."""
    nice: int = 10
    """CPU courtesy towards the data plane: niceness of this process and its replays."""

    def of(self, kind: Kind) -> "Search":
        """What differs between the searches of the two kinds."""
        if kind == "plan":
            limits = Limits(self.plan_cycle_s, self.plan_candidates, self.calls, self.tokens, self.cost)
            return Search(self.initial_plan, limits, self.plan_loads, self.plan_arrivals)
        limits = Limits(self.cycle_s, self.candidates, self.calls, self.tokens, self.cost)
        return Search(self.initial, limits, self.loads, self.arrivals)


@dataclass(frozen=True, slots=True)
class Search:
    """How policies of one kind are searched; see `SynthesizerSettings`."""

    initial: str
    limits: Limits
    loads: tuple[float, ...]
    arrivals: int


class LlmSettings(Section, frozen=True, kw_only=True):
    """The endpoint that writes policies. Without `base_url` and `model` no call is ever made, whatever the environment holds."""

    prefix: ClassVar[str] = "llm"
    base_url: str = ""
    """OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    key: Secret = Secret()
    """Sent as bearer token; empty for endpoints that want none. OPENAI_API_KEY is never read."""
    temperature: float = 0.8
    max_tokens: int = 4096
    """Of one answer."""
    timeout_s: float = 120.0
    prompt_price: float = 0.0
    """Money per million prompt tokens."""
    completion_price: float = 0.0
    """Money per million completion tokens."""

    @property
    def configured(self) -> bool:
        return bool(self.base_url and self.model)
