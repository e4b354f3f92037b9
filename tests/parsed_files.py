"""Trees of Python files, each parsed once for all tests of a file."""

import ast
from functools import cache
from pathlib import Path


@cache
def parsed(path: Path) -> ast.Module:
    """The tree of a file; nobody may change it."""
    return ast.parse(path.read_text(encoding="utf-8"))
