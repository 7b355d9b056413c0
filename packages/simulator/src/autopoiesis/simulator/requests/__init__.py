"""The per-request world: every request through the real dispatch core and simulated engines."""
