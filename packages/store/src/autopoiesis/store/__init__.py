"""PostgreSQL: policies, snapshots, evaluations, activations, outbox."""
