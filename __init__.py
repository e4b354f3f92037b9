"""Predict DFlash speculative-decoding throughput in SGLang before renting the GPUs."""

__version__ = "0.1.0"
