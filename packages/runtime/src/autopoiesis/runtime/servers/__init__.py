"""What router and worker know alike of OpenAI-compatible inference servers: their protocol, their metrics, their pace."""
