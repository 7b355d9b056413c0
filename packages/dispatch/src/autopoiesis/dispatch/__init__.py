"""The router's deciding core, without I/O."""
