"""The jail: where candidates are judged and plans are made.

A job is a function bytes -> bytes, forked from a fresh single-threaded process that already imported it, confined by
resource limits, landlock and seccomp, and killed on time. What comes back is data only; nothing is unpickled.
"""

from autopoiesis.policy.jail.errors import JailCrash, JailError, JailMemory, JailTimeout
from autopoiesis.policy.jail.limits import Job, Limits
from autopoiesis.policy.jail.pool import Jail
from autopoiesis.policy.jail.preloads import preloaded

__all__ = ["Jail", "JailCrash", "JailError", "JailMemory", "JailTimeout", "Job", "Limits", "preloaded"]
