"""Findings of a study of the gallery: a text to read, and JSON for pages to quote."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dflash_sim.profiles.errors import UsageError
from dflash_sim.studies.show.files import write_whole
from dflash_sim.studies.show.plain_table import Table, text_of


@dataclass(frozen=True)
class Findings:
    """Tables, and the figures and sentences that a page may quote by name.

    Parameters
    ----------
    words
        A name such as ``held MAPE`` and its text, such as ``4.7 %``.
    """

    tables: tuple[Table, ...]
    words: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the tables as they are printed."""
        return text_of(self.tables)

    def slots(self) -> dict[str, str]:
        """Return what a page may ask for: Markdown tables by title, and the words."""
        return {t.title: f"\n\n{t.markdown()}\n\n" for t in self.tables} | dict(self.words)

    def write(self, script: Path) -> None:
        """Write ``.out`` and ``.json`` beside the script."""
        tables = [asdict(table) for table in self.tables]
        found = {"words": dict(self.words), "tables": tables}
        write_whole(script.with_suffix(".out"), self.text())
        write_whole(
            script.with_suffix(".json"), json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        )

    @classmethod
    def read(cls, path: Path) -> "Findings":
        """Read what :meth:`write` wrote.

        Raises
        ------
        UsageError
            The file is missing or is something else.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            tables = [
                Table(t["title"], tuple(t["head"]), tuple(map(tuple, t["rows"])))
                for t in found["tables"]
            ]
            return cls(tuple(tables), dict(found["words"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = (
                f"{path} does not hold what a study found ({error!r}); "
                f"run python studies/gallery/{path.stem}.py --write"
            )
            raise UsageError(msg) from error

    def __getitem__(self, title: str) -> Table:
        """Return the table of this title."""
        return next(table for table in self.tables if table.title == title)
