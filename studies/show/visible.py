"""Text that comes from a file or a command line, made safe to show."""

from collections.abc import Iterable


def _spelt(codes: Iterable[int]) -> dict[int, str]:
    return {code: f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" for code in codes}


_CONTROLS = _spelt((*(c for c in range(32) if chr(c) not in "\n\t"), *range(0x7F, 0xA0)))
# What turns or breaks a line of text, and halves of letters, which no encoding has.
_TURNS = (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_SHOWN = _CONTROLS | _spelt((*_TURNS, *range(0xD800, 0xE000)))


def visible(text: str) -> str:
    """Return ``text`` with control characters spelt out, so that none acts on a terminal."""
    return text.translate(_SHOWN)


def without_controls(text: str) -> str:
    """Return ``text`` as a file may hold it that a browser shows, or a terminal."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode()
