"""OpenAI-compatible HTTP front door that dispatches every request by the active policy."""
