"""The tables, one class each."""

from autopoiesis.store.models.activations import EPOCHS, Activation, Active, Control
from autopoiesis.store.models.base import SCHEMA, SEALED, Base
from autopoiesis.store.models.evolution import ArchiveEntry, Completion
from autopoiesis.store.models.outbox import Outgoing
from autopoiesis.store.models.policies import Evaluation, Policy
from autopoiesis.store.models.snapshots import SealedSnapshot, Segment, Snapshot

__all__ = [
    "EPOCHS",
    "SCHEMA",
    "SEALED",
    "Activation",
    "Active",
    "ArchiveEntry",
    "Base",
    "Completion",
    "Control",
    "Evaluation",
    "Outgoing",
    "Policy",
    "SealedSnapshot",
    "Segment",
    "Snapshot",
]
