"""How requests reach replicas: over NATS to our workers, over HTTP to attached servers."""
