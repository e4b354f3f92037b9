"""Pages and progress on a terminal, a pipe or in a file."""

import io
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.segment import Segment, Segments

from dflash_sim.studies.show.files import write_whole
from dflash_sim.studies.show.visible import visible

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

FILE_WIDTH = 100  # of a page in a file or a pipe, unless COLUMNS says otherwise
_FRAME_S = 0.1
_PATIENCE_S = 0.5


def page_width(*, to_file: bool) -> int:
    """Columns of a page [character]."""
    if not to_file and sys.stdout.isatty():
        return Console().width
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdecimal() and int(columns) else FILE_WIDTH


def as_page(page: RenderableType, *, to_file: bool) -> str:
    """A page as text: in colour for a terminal that has any, else plain."""
    colour = not to_file and sys.stdout.isatty()
    text = io.StringIO()
    console = Console(
        file=text,
        width=page_width(to_file=to_file),
        force_terminal=colour,
        color_system="auto" if colour else None,
        highlight=False,
        force_jupyter=False,  # where a notebook calls, the text goes to it all the same
    )
    parts = [Segment(visible(s.text), s.style, s.control) for s in console.render(page)]
    console.print(Segments(parts), end="")
    encoding = sys.stdout.encoding if not to_file and sys.stdout.encoding else "utf-8"
    shown = text.getvalue().encode(encoding, "replace").decode(encoding)
    return "".join(f"{line.rstrip()}\n" for line in shown.splitlines())


def deliver(text: str, output: Path | None = None) -> None:
    """Put text on stdout, or in a file, whole or not at all."""
    if output is not None:
        write_whole(output, text)
        murmur(f"wrote {visible(str(output))}")
        return
    sys.stdout.write(text)
    sys.stdout.flush()  # a closed pipe shows here, not at exit


def murmur(line: str) -> None:
    """Put a line on stderr; who cannot hear it still gets the answer."""
    with suppress(OSError, ValueError):  # it is full, or closed
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class Progress:
    """A bar on stderr for work that takes longer than a moment, and only on a terminal.

    Parameters
    ----------
    total
        Runs to do.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start_s = total, 0, time.monotonic()
        self.drawn_s = self.start_s
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        return self

    def advance(self, _run: int) -> None:
        """One more run is done."""
        self.done += 1
        now = time.monotonic()
        patient = now - self.start_s < _PATIENCE_S
        if self.bar is None and not patient and sys.stderr.isatty():
            from rich.progress import Progress as Bar

            # Without a thread of its own, beside which nothing is done in a second process.
            self.bar = Bar(console=Console(stderr=True), transient=True, auto_refresh=False)
            self.bar.add_task("runs", total=self.total)
            self.bar.start()
        if self.bar is not None:
            due = now - self.drawn_s >= _FRAME_S
            self.drawn_s = now if due else self.drawn_s
            self.bar.update(self.bar.task_ids[0], completed=self.done, refresh=due)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
