"""Lines of a shell that Python text holds as strings, and variables that it sets for them."""

import ast
import re
import warnings
from collections.abc import Iterator

_LAUNCHER = re.compile(r"launch_server|\bsglang\s+serve\b")
_LONGEST = 100_000
_NAMES = r"[\"']([A-Z][A-Z\d_]+)[\"']"
_VALUES = r"[\"']?([\w.,:/-]*)[\"']?"
_VARIABLE = re.compile(
    rf"(?:\w*env\w*\[{_NAMES}\]\s*=|env\w*\.setdefault\({_NAMES}\s*,|{_NAMES}\s*:"
    rf"|dict\(os\.environ[^)]*?\b([A-Z][A-Z\d_]+)\s*=)\s*{_VALUES}"
)


def variables_in_python(text: str) -> dict[str, str]:
    """Environment variables that Python text sets; none if it is none."""
    if not re.search(r"\bos\.environ\b|\bimport\s+\w+", text):
        return {}
    return {
        next(name for name in found[:-1] if name): found[-1] for found in _VARIABLE.findall(text)
    }


def scripts_in_python(text: str) -> Iterator[str]:
    """Every string with a launch in it, with what the text says of the names within."""
    if len(text) > _LONGEST or not _LAUNCHER.search(text):
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    known[target.id] = str(node.value.value)
    within: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            within |= {id(part) for part in node.values}
        elif not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            continue
        script = "" if id(node) in within else _spoken(node, known).strip()
        if re.search(r"\s", script) and _LAUNCHER.search(script):
            yield script


def _spoken(node: ast.expr, known: dict[str, str]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_spoken(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _spoken(node.value, known)
    if isinstance(node, ast.Name):
        return known.get(node.id, f"${{{node.id}}}")
    return "${" + re.sub(r"\W+", "_", ast.unparse(node)) + "}"
