"""What is run and what it leaves: networks, prompts, requests, setup, messages, journal."""
