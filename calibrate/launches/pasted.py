"""Text as people paste it -> text as it was typed: fences, prompts, typographic signs."""

import re

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w-]*[ \t]*$\n?", re.MULTILINE)
_SIGNS = str.maketrans(
    {"\u00a0": " ", "\u202f": " ", "\u3000": " ", "\u200b": None, "\ufeff": None,
     "\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'", "\u2212": "-", "\u2011": "-"}
)  # fmt: skip
# A word processor makes one dash of two.
_DASH = re.compile(r"(?<![^\s\"'])(?:\u2014|\u2013)[-\u2013]?(?=[A-Za-z])")
_SET_OF_CMD = re.compile(
    r'^[ \t]*@?set[ \t]+"?(\w+)=([^"\n]*?)"?[ \t]*$', re.IGNORECASE | re.MULTILINE
)
_OF_CMD = re.compile(r"%(\w+)%")
_MARKS = (">", "+", "|")  # of a quotation, of a patch
_CALL = re.compile(r"(?:\S*/)?(?:python[\d.]*|sglang)\b[^\n]*")


def as_typed(text: str) -> str:
    """Return the text without what pasting put around and into it.

    Examples
    --------
    >>> as_typed("> sglang serve Qwen/Qwen3-8B \\u2014tp 2")
    'sglang serve Qwen/Qwen3-8B --tp 2'
    """
    text = text.replace("\r\n", "\n").translate(_SIGNS)
    text = _filled_as_cmd(_DASH.sub("--", _FENCE.sub("", text)))
    lines = [line for line in text.split("\n") if line.strip()]
    for mark in _MARKS:
        if lines and all(line.lstrip().startswith((mark + " ", mark + "\t")) for line in lines):
            return "\n".join(line.lstrip()[2:] for line in lines)
    return text


def _filled_as_cmd(text: str) -> str:
    """The text with variables of a batch file of Windows in place of ``%NAME%``."""
    known: dict[str, str] = {}

    def fill(part: str) -> str:
        return _OF_CMD.sub(lambda named: known.get(named[1].lower(), named[0]), part)

    for name, value in _SET_OF_CMD.findall(text) if "%" in text else ():
        known[name.lower()] = fill(value)
    return fill(text) if known else text


def commands_within(text: str) -> str:
    """Lines of prose that begin a call of Python or SGLang, each with the lines that go on."""
    kept: list[str] = []
    goes_on = False
    for line in text.split("\n"):
        called = None if goes_on else _CALL.search(line)
        goes_on = goes_on and (kept[-1].rstrip().endswith("\\") or line.lstrip().startswith("-"))
        if called or goes_on:
            kept.append(called[0] if called else line)
            goes_on = True
    return "\n".join(kept)
