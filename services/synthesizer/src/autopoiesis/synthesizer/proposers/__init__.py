"""Where candidates come from, one file each. A new source of candidates is one more file with a `Proposer`."""
