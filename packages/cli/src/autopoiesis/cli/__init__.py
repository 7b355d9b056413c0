"""The autopoiesis command."""
