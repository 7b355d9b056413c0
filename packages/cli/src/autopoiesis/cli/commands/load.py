"""`autopoiesis load`: open-loop load against any OpenAI URL."""
