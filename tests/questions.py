"""Small questions, and what the command line answers to them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dflash_sim.cli import run

SMALL: dict[str, Any] = {
    "model": "qwen3-8b",
    "gpu": "b200",
    "tp": 1,
    "isl": 256,
    "osl": 64,
    "num_prompts": 8,
    "runs": 1,
    "acceptance": "al:4",
}
Cli = Callable[..., Any]


def words(question: dict[str, Any]) -> list[str]:
    """The flags of a question."""
    flags = []
    for name, value in question.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        flags += ["--" + name.replace("_", "-"), text]
    return flags


def printed(capsys: pytest.CaptureFixture[str], *command: Any, code: int = 0) -> Any:
    """What a command prints as JSON."""
    assert run([*map(str, command), "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)
