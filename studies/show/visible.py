"""Text that comes from a file or a command line, made safe to show."""

_SHOWN = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}
del _SHOWN[ord("\n")], _SHOWN[ord("\t")]


def visible(text: str) -> str:
    """Return ``text`` with control characters spelt out, so that none acts on a terminal."""
    return text.translate(_SHOWN)
