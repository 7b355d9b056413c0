"""The search without services: a trace, a fleet, a folder. Nothing but these names is meant for others' programs."""

from autopoiesis.synthesizer.offline.found import Found, Tried
from autopoiesis.synthesizer.offline.search import Search, evolve

__all__ = ["Found", "Search", "Tried", "evolve"]
