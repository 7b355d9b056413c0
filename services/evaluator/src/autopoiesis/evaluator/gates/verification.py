from autopoiesis.evaluator.case import Case
from autopoiesis.policy.language import LinkError, PolicyError, compile_policy


class Verification:
    """It is a policy of its kind, and the one its hash says. Whoever proposed it said so too; that is not proof."""

    name = "verification"

    async def __call__(self, case: Case) -> str | None:
        try:
            policy = compile_policy(case.candidate.source, case.proposal.kind)
        except LinkError as error:
            return f"not linked: {error}"
        except PolicyError as error:
            return f"does not verify: {error}"
        if policy.hash != case.candidate.hash:
            return f"its hash is {policy.hash[:12]}, not {case.candidate.hash[:12]} as proposed"
        if case.candidate.hash == case.incumbent.hash:
            return "it is in force already"
        return None
