"""One module per command; `autopoiesis.cli.app` puts them together."""
