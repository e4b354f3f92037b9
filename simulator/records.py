"""What a run leaves behind: one row per request, one per engine iteration."""

from dataclasses import dataclass

import numpy as np

DECODE, PREFILL = 0, 1


@dataclass(frozen=True)
class Run:
    """The outcome of one run of an engine; times in seconds from its start.

    Request arrays are indexed by request; a request that never ran has ``nan`` times. Iteration
    arrays are in launch order: ``kind`` (DECODE or PREFILL), ``batch`` requests, ``kv_tokens``
    cached on the GPU (prefill: new tokens), ``gpu_s`` of work, start and end on the GPU, host
    time spent, and ``emit_s``, when its tokens left the scheduler.
    """

    arrival_s: np.ndarray
    first_token_s: np.ndarray
    finish_s: np.ndarray
    cycles: np.ndarray
    committed: np.ndarray
    kind: np.ndarray
    batch: np.ndarray
    kv_tokens: np.ndarray
    prefix: np.ndarray
    gpu_s: np.ndarray
    gpu_start_s: np.ndarray
    gpu_end_s: np.ndarray
    host_s: np.ndarray
    emit_s: np.ndarray
    retractions: int = 0
    engine: str = "event"
