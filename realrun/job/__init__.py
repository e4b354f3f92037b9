"""A JOB OF THE ENGINE: networks, prompts, requests, setup, messages, journal."""
