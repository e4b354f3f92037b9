"""A process that renders a chat template and does nothing else: a sandbox, with little memory.

The first line that it reads is a template with its tokens, each further one a conversation; it
answers every line by one, of a text or of what is wrong.
"""

import json
import signal
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY = 2**30  # bytes, all of the process
LONGEST = 2**26  # letters of a conversation
ORPHAN_S = 60  # after which it ends by itself, whatever became of its server


class Generation(Extension):
    """The tag around what a model says, which tells a trainer of it and changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """Keep what is inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Names(Namespace):
    """A namespace without names that Python itself uses."""

    def __init__(*args: Any, **more: Any) -> None:  # a template may call a name "self"
        own, *rest = args
        for name in (given := dict(*rest, **more)):
            _allowed(name)
        Namespace.__init__(own, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _allowed(name)
        super().__setitem__(name, value)


def _allowed(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        msg = f"{name[:40]!r} is no name for a template"
        raise SecurityError(msg)


def _refuse(said: object) -> None:
    raise TemplateError(str(said))


def _as_json(value: Any, **form: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False} | form)


def environment() -> ImmutableSandboxedEnvironment:
    """Return what Hugging Face's transformers gives a chat template."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, LoopControlExtension]
    )
    made.filters["tojson"] = _as_json
    made.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": lambda *given, **more: dict(*given, **more),
        "namespace": Names,
    }
    return made


def rendered(template: Any, given: dict[str, Any]) -> str:
    """The text of a conversation.

    Raises
    ------
    TemplateError
        The template refuses it, or writes without end.
    """
    parts, size = list[str](), 0
    for part in template.generate(given):
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            msg = f"it writes more than {LONGEST // 2**20} Mi letters"
            raise TemplateError(msg)
    return "".join(parts)


def main() -> None:
    """Answer line by line until there are no more."""
    with suppress(ImportError, ValueError, OSError):  # a system that does not bound the memory
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    template: Any = None
    tokens: dict[str, str] = {}
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(ORPHAN_S)
        answer: dict[str, str]
        try:
            given = json.loads(line)
            if template is None:
                tokens = given["tokens"]
                template, text = environment().from_string(given["template"]), ""
            else:
                text = rendered(template, {**tokens, **given})
            answer = {"text": text}
        except MemoryError:
            answer = {"error": "it needs more memory than a template may"}
        except Exception as error:
            said = " ".join(str(error).split())[:160].rstrip(".")
            answer = {"error": said or type(error).__name__}
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


if __name__ == "__main__":
    main()
