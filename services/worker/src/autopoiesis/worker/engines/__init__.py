"""Engines, one file each: `base.Engine` says what the worker asks of them, `worker.app` picks one by its name in the settings."""
