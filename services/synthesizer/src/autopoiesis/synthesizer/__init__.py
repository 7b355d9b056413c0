"""Writes candidate policies: an LLM where one is configured, an offline mutator elsewhere."""
