"""Deterministic simulation of an LLM serving fleet, driven by the same dispatch core as the live router."""
