"""The router's deciding core without I/O: events in, actions out."""

from autopoiesis.dispatch.core import Dispatcher
from autopoiesis.dispatch.port import CompiledPolicy
from autopoiesis.dispatch.settings import DispatchSettings

__all__ = ["CompiledPolicy", "DispatchSettings", "Dispatcher"]
