"""Text that comes from a file or a command line, made safe to show."""

# Control characters; those that turn or break a line; halves of what no encoding has.
_UNSEEN = (
    *(code for code in range(32) if chr(code) not in "\n\t"),
    *range(0x7F, 0xA0),
    *(0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF),
    *range(0xD800, 0xE000),
)
_SHOWN = {code: f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" for code in _UNSEEN}


def visible(text: str) -> str:
    """Return ``text`` with control characters spelt out, so that none acts on a terminal."""
    return text.translate(_SHOWN)
