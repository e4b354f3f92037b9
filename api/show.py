"""Pages of the terminal as text and as HTML, and progress for whoever asks for it."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console, RenderableType

from dflash_sim.studies.show.terminal import FILE_WIDTH, as_page

Advance: TypeAlias = Callable[..., None]
_PRE = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:1.2;'
    "font-family:Menlo,'DejaVu Sans Mono',Consolas,monospace\">{code}</pre>"
)


class Paged:
    """A thing with a page, as the command line prints it."""

    def _page(self) -> RenderableType:
        raise NotImplementedError

    def summary(self) -> str:
        """Return the page that the command line prints, as plain text."""
        return as_page(self._page(), to_file=True)

    def _repr_html_(self) -> str:
        console = Console(
            record=True,
            width=FILE_WIDTH,
            file=io.StringIO(),
            highlight=False,
            force_jupyter=False,  # which would show the page itself
        )
        console.print(self._page())
        return console.export_html(inline_styles=True, code_format=_PRE)


@contextmanager
def counted(total: int, *, show: bool, what: str = "runs") -> Iterator[Advance]:
    """Yield what is called after each part of the work; it tells on stderr if that is wanted.

    Parameters
    ----------
    total
        Parts of the work.
    what
        What they are called.
    """
    done = 0

    def advance(*_: object) -> None:
        nonlocal done
        done += 1
        if show:
            sys.stderr.write(f"\r{done:,} of {max(total, done):,} {what}")
            sys.stderr.flush()

    yield advance
    if show and done:
        sys.stderr.write("\n")
