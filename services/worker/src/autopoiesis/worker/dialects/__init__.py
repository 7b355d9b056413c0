"""Other APIs of an engine that speaks chat: OpenAI's responses and Anthropic's messages, translated both ways."""
