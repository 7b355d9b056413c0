"""Turns telemetry into windows, drift signals and immutable snapshots."""
