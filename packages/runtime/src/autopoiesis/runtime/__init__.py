"""Bus, telemetry, settings and lifecycle shared by the services."""
