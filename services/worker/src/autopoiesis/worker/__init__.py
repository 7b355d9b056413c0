"""Runs engines (vLLM, attached servers, simulated) and serves them over NATS."""
