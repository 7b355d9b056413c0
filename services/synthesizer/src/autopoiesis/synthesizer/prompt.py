"""What is asked of a language model: the interface, the objective, what was seen, what was tried. Never request content."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autopoiesis.contracts.messages.policy import Kind, Score
from autopoiesis.policy.language import reference
from autopoiesis.synthesizer.candidates import Scored
from autopoiesis.synthesizer.proposers.base import Task

Message = dict[str, str]
"""`role` and `content` of one chat message."""

TRIED = 12
FAILURES = 4
FAILURE_CHARS = 1200

_OBJECTIVE: dict[Kind, str] = {
    "dispatch": """Maximise goodput: requests per second that finish with their first token and their pace (seconds per output
token) within the objectives of their class, counted over ALL arrivals: a rejected, lost or late request is a miss.
What decides it:
- queueing: a request sent to a replica with prefill backlog waits for that backlog; predicted_ttft includes it;
- batching: every decoding sequence on a replica slows the others; predicted_tpot tells by how much;
- GPU types differ: fast ones can meet tight paces that slow ones cannot, so what can be served slowly should not take
  the fast ones' room;
- KV memory: past its capacity an engine preempts and recomputes;
- holding keeps a choice open but costs waiting; rejecting is a sure miss that may save others under overload;
- where every replica is idle `route` must return Assign, whatever the objectives: HOLD or REJECT then ends the candidate unscored.
`fitness` is goodput divided by the incumbent's, averaged over loads: 1.05 is 5 % more goodput.""",
    "plan": """Minimise the total time of the trace (the seconds it takes to finish every step's load):
T_total = sum over steps of t_stale + t_reconfig + t_serve, where
- t_stale is the processor time that should_reschedule and schedule take at that step (serving goes on under the old plan, but
  no credit is given for it); the first step's counts too;
- t_reconfig is 0 for a step that keeps the plan. Otherwise only models whose set of (GPU type, tp, count) changed cost anything:
  the longest transfer_time among them on the types they leave plus the longest on the types they go to. Batches and shares can
  change for free. Moving a large model costs much more than a small one, and moving several costs no more than the slowest of them;
- t_serve is the makespan: the slowest model's slowest group of replicas at this step's load.
`fitness` is the incumbent's total time divided by the candidate's: 1.05 means 5 % faster than the incumbent.
What decides it:
- how often to reschedule: skip the call where the plan in force serves almost as well; go where what is saved until the next change
  exceeds transfer plus scheduling time. What comes next is not known, but `ctx.history` shows what came before, and regimes recur;
- how thoroughly to search: integer programs with many options or tight gaps take seconds of scheduling time; fewer batches, no
  options that cannot win, per-model batch lists (divisors and quotients of the concurrency), a parallelism of at least 4 for ~70B
  models, a looser gap or time_limit cut that to a fraction with almost no loss. `ctx.toolkit.latency` is cheap (microseconds);
- how much to move: weigh the gain in makespan against reconfigure_time; keep heavy models where they are and let light ones
  move around them; a slightly worse plan that many loads share needs no moves at all;
- on clusters that change, a plan that uses GPUs that are about to leave has to move later, by force.
A plan must not use more GPUs than there are and must serve every model with demand; a fault or such a plan ends the candidate.""",
}

_PLANNED = """Maximise goodput: requests per second that finish with their first token and their pace (seconds per output token) within
the objectives of their class, counted over ALL arrivals of a replayed window of real traffic. Every request is simulated through the
router in force, so moves cost what they cost:
- a replica that the plan no longer wants takes no more requests and keeps its GPUs until what it runs has ended; a new one waits for
  free GPUs, then loads for many seconds and serves nothing meanwhile. Replicas of a kind (GPU type, tp, role) that both plans have stay;
- a plan takes effect only after the processor time that should_reschedule and schedule took;
- GPUs come and go. What runs on those that go is lost with its requests, the newest replicas first; ctx.gpus shows counts at this step;
- demand is what the planner measured: requests at once are in `concurrency` (running and waiting), so a starved fleet shows a high one;
- batch and share of an entry are advice that nothing needs; what counts is how many replicas of which tp there are. Small tp gives
  more replicas and more throughput per GPU where weights leave room for KV cache; large tp gives quicker tokens and a roomier cache.
Between changes of the cluster or of the load a plan should stay: each needless move loses room while replicas load. A plan that uses
GPUs as soon as they come, and needs few moves when they go, wins. `fitness` is goodput divided by the incumbent's: 1.05 is 5 % more.
A plan must not use more GPUs than there are, must keep to the bounds, and a fault ends the candidate."""

_DRAW = re.compile(r"\(question (\d+)\)\Z")

_WHERE: dict[Kind, str] = {"dispatch": "inside the router", "plan": "at every monitoring step"}

_DIFF = """Answer with one or more edits of the PARENT, each in exactly this form:
<<<<<<< SEARCH
lines copied from the parent, unique in it
=======
the lines that replace them
>>>>>>> REPLACE
Before them, in one or two sentences, say why this should raise fitness for this workload. Change one idea at a time."""

_REWRITE = """Answer with one complete policy in a single ```python block, all functions included. Before it, in one or two sentences,
say why it should raise fitness for this workload. A different idea than the parent's is welcome."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question. `rewrite` asks for a whole policy instead of edits of the parent; `draw` tells equal questions apart."""

    task: Task
    parent: Scored
    rewrite: bool = False
    draw: int = 0


def messages(request: Request) -> list[Message]:
    """System and user message."""
    return [
        {"role": "system", "content": _system(request.task)},
        {"role": "user", "content": _user(request)},
    ]


def repair(asked: Sequence[Message], answer: str, problem: str) -> list[Message]:
    """The same conversation, with the answer and what is wrong with it."""
    complaint = f"That is not a valid answer:\n{problem[:FAILURE_CHARS]}\n\nSend a complete corrected policy in a single ```python block."
    return [*asked, {"role": "assistant", "content": answer}, {"role": "user", "content": complaint}]


def digest(asked: Sequence[Message]) -> str:
    """What a question is known by: SHA-256 of its messages."""
    return hashlib.sha256(repr(list(asked)).encode()).hexdigest()


def number(asked: Sequence[Message]) -> str:
    """Which question of a search this is, whatever the wording: its draw, and the length of the conversation; empty without one."""
    draws = [found[1] for m in asked[:2] if (found := _DRAW.search(m["content"]))]
    return f"{draws[0]}/{len(asked)}" if draws else ""


def show(request: Request) -> str:
    """The prompt as text: exactly what would leave the network."""
    return "\n\n".join(f"===== {m['role']} =====\n{m['content']}" for m in messages(request)) + "\n"


def _system(task: Task) -> str:
    kind = task.kind
    objective = _PLANNED if kind == "plan" and task.situation.requests else _OBJECTIVE[kind]
    return "\n\n".join(
        [
            (
                f"You write {kind} policies for a cluster that serves large language models. A policy is a short program; the system "
                f"runs it {_WHERE[kind]}, so it must be fast and must never fault."
            ),
            f"# Language\n\n{reference.language(kind)}",
            f"# Interface\n\n{reference.interface(kind)}",
            f"# Objective\n{objective}",
        ]
    )


def _user(request: Request) -> str:
    task, parent = request.task, request.parent
    parts = [f"# Situation\n{task.situation.text()}"]
    shown: dict[str, str] = {}
    for role, policy in (
        ("INCUMBENT (active now)", task.incumbent),
        ("BEST SO FAR", task.best),
        ("PARENT", parent),
    ):
        parts.append(_policy(role, policy, shown))
        shown.setdefault(policy.hash, role)
    for number, policy in enumerate(task.inspirations, 1):
        if policy.hash not in shown:
            parts.append(_policy(f"ANOTHER IDEA {number} (from elsewhere in the archive)", policy, shown))
            shown[policy.hash] = f"ANOTHER IDEA {number}"
    if task.tried:
        parts.append(
            "# Tried in this cycle and before, newest last\n" + "\n".join(map(_line, task.tried[-TRIED:]))
        )
    if task.failures:
        parts.append(
            "# Why the last attempts failed\n"
            + "\n".join(f"- {f[:FAILURE_CHARS]}" for f in task.failures[-FAILURES:])
        )
    parts.append(f"# Your answer\n{_REWRITE if request.rewrite else _DIFF}\n(question {request.draw})")
    return "\n\n".join(parts)


def _policy(role: str, policy: Scored, shown: dict[str, str]) -> str:
    if policy.hash in shown:
        return f"# {role}: the same policy as {shown[policy.hash]}"
    return f"# {role}\n{_results(policy)}\n```python\n{policy.source.strip()}\n```"


def _results(policy: Scored) -> str:
    if policy.result is None:
        return "not scored on this window"
    result = policy.result
    lines = [f"fitness {result.fitness:.4f}, faults {result.faults}"]
    if result.scores:
        lines += [_TABLE_HEAD, *(_row(score) for score in result.scores)]
    if result.breakdown:
        what = "costs" if "total_s" in result.breakdown else "attainment"
        lines.append(f"{what}: " + ", ".join(f"{k} {v:.3f}" for k, v in sorted(result.breakdown.items())))
    if result.artifact:
        lines.append(result.artifact)
    if policy.feedback:
        lines.append(f"evaluator: {policy.feedback}")
    return "\n".join(lines)


_TABLE_HEAD = "load  goodput/s  attainment  rejected  TTFT p95 s  TPOT p95 s"


def _row(score: Score) -> str:
    return (
        f"{score.load:4.2f}  {score.goodput:9.3f}  {score.attainment:10.4f}  {score.rejected:8.4f}  "
        f"{score.ttft_p95_s:10.3f}  {score.tpot_p95_s:10.4f}"
    )


def _line(policy: Scored) -> str:
    feedback = f" ({policy.feedback})" if policy.feedback else ""
    fitness = f"{policy.fitness:.4f}" if policy.result else "not scored"
    costs = policy.result.breakdown if policy.result and policy.kind == "plan" else {}
    parts = f"  [{', '.join(f'{k} {v:.4g}' for k, v in costs.items())}]" if costs else ""
    return f"- {fitness}  {policy.title[:160] or 'untitled'}{parts}{feedback}"
