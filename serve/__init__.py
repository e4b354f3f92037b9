"""An OpenAI-compatible server that answers with simulated timing, or with our own engine."""
