"""The Autopoiesis paper's world: interval by interval, for plan policies. Numbers of equations are those of arXiv 2604.07144."""

from autopoiesis.simulator.intervals.cost import Assumptions, CostModel
from autopoiesis.simulator.intervals.traces import PlanTrace, Step, demand, pool

__all__ = ["Assumptions", "CostModel", "PlanTrace", "Step", "demand", "pool"]
