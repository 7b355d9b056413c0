"""The policy language: verify, link, meter, compile.

A policy is a file in a subset of Python (docs/policy-language.md). `compile_policy` is the door for everyone who runs
policies, `verify` for everyone who writes them.
"""

from autopoiesis.policy.language.compiler import DEFAULT_FUEL, CompiledPolicy, compile_policy
from autopoiesis.policy.language.errors import (
    InvalidDecision,
    LinkError,
    OutOfFuel,
    PolicyError,
    PolicyFault,
    VerificationError,
)
from autopoiesis.policy.language.identity import policy_hash
from autopoiesis.policy.language.linker import link
from autopoiesis.policy.language.module import kind_of
from autopoiesis.policy.language.report import Problem, Report
from autopoiesis.policy.language.verifier import verify

__all__ = [
    "DEFAULT_FUEL",
    "CompiledPolicy",
    "InvalidDecision",
    "LinkError",
    "OutOfFuel",
    "PolicyError",
    "PolicyFault",
    "Problem",
    "Report",
    "VerificationError",
    "compile_policy",
    "kind_of",
    "link",
    "policy_hash",
    "verify",
]
