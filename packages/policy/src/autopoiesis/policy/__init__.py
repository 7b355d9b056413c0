"""The policy API, its language, the shipped policies and the jail they are judged in.

A policy file may write `from autopoiesis.policy import Assign, HOLD, REJECT, Replicas`; the language binds these names
anyway, so the line is only for editors.
"""

from autopoiesis.policy.api import (
    API_VERSION,
    HOLD,
    REJECT,
    Assign,
    DispatchContext,
    GpuPool,
    ModelDemand,
    PlanContext,
    Replica,
    Replicas,
    Request,
    Workflow,
)

__all__ = [
    "API_VERSION",
    "HOLD",
    "REJECT",
    "Assign",
    "DispatchContext",
    "GpuPool",
    "ModelDemand",
    "PlanContext",
    "Replica",
    "Replicas",
    "Request",
    "Workflow",
]
