"""What an operator can set."""

from typing import Annotated, ClassVar

import msgspec

from autopoiesis.runtime.settings import Port, Section

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0.0)]


class EvaluatorSettings(Section, frozen=True, kw_only=True):
    prefix: ClassVar[str] = "evaluator"
    host: str = "127.0.0.1"
    port: Port = 0
    """Of health and metrics; 0 takes a free one."""
    initial: str = "round_robin"
    """Shipped policy that counts as in force, and is activated, where nothing ever was; as `router.policy`."""

    initial_plan: str = "plan_keep"
    """The same of plan policies, where a planner is at work; as `planner.policy`."""

    loads: tuple[Annotated[float, msgspec.Meta(gt=0.0)], ...] = (0.9, 1.0, 1.15)
    """Multiples of the recorded load at which policies are replayed."""
    seeds: Annotated[int, msgspec.Meta(ge=1)] = 2
    """Replays per load, each with seeds of its own; candidate and rivals share them."""
    block_s: _Seconds = 15.0
    """Least length of the blocks of time that are resampled: longer than requests usually take. Windows of less than four
    blocks are cut into four shorter ones, whose intervals are somewhat too narrow."""
    plan_block_s: _Seconds = 60.0
    """The same where plan policies are compared: longer than a move of replicas is felt."""
    parallel: Annotated[int, msgspec.Meta(ge=1)] = 2
    """Replays that run at the same time."""
    replay_s: _Seconds = 60.0
    """Seconds after which one replay is ended and its policy rejected."""
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    """CPU courtesy towards the data plane: niceness of this process and its replays."""

    confidence: Annotated[float, msgspec.Meta(gt=0.5, lt=1.0)] = 0.95
    """That no promotion on one sealed half is wrong; each of its `looks` gets an equal share of the error."""
    looks: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Candidates that may be decided on one sealed half."""
    min_gain: float = 0.0
    """The interval of the relative goodput gain must lie above this."""
    max_faults: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Faults over all replays of a candidate."""
    max_fuel: Annotated[float, msgspec.Meta(gt=0.0)] = 50_000.0
    """Mean fuel per request."""
    max_rejected: _Share = 0.1
    """Share of arrivals that a candidate may reject, at any load."""
    max_class_loss: _Share = 0.05
    """Attainment that no class of requests may lose, in any one load."""
    max_gpu_loss: _Share = 1.0
    """The same for requests served by one GPU type; 1 does not bind, for a good policy may send lost causes to one type."""
    max_model_error: Annotated[float, msgspec.Meta(gt=0.0)] = 0.3
    """Largest relative error of the simulator against what was measured, where that is known."""

    guard_window_s: _Seconds = 90.0
    """How long after a promotion attainment is compared with as long before it."""
    guard_settle_s: Annotated[float, msgspec.Meta(ge=0.0)] = 20.0
    """Arrivals younger than this are not counted yet: those that have ended already are the quick ones."""
    guard_washout_s: Annotated[float, msgspec.Meta(ge=0.0)] = 5.0
    """Arrivals this soon after a promotion still meet the queues that the old policy left."""
    guard_plan_washout_s: Annotated[float, msgspec.Meta(ge=0.0)] = 45.0
    """The same after a promotion of a plan policy, whose first moves take that long; must be less than `guard_window_s`."""
    guard_requests: Annotated[int, msgspec.Meta(ge=1)] = 200
    """Least requests at matched load on either side."""
    guard_loss: _Share = 0.05
    """Least loss of attainment that rolls back."""
    guard_alpha: Annotated[float, msgspec.Meta(gt=0.0, lt=0.5)] = 0.001
    """Chance of a rollback without a loss, over all looks after one promotion."""
