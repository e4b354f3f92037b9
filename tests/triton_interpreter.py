"""Calls functions of test files in one child process where Triton is interpreted on the CPU.

TRITON_INTERPRET is read when a kernel is decorated, and holds for the whole process; the offline
compile check needs it unset. So the interpreter lives in a process of its own, started once.
"""

import atexit
import importlib.util
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def _begin() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    torch.set_num_threads(1)


@cache
def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _call(path: str, function: str, arguments: dict[str, Any]) -> None:
    getattr(_load(path), function)(**arguments)


@cache
def _child() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin)
    atexit.register(pool.shutdown)
    return pool


def interpret(path: str, function: str, **arguments: Any) -> None:
    """Run ``function(**arguments)`` of the test file ``path`` under the interpreter."""
    _child().submit(_call, path, function, arguments).result()
