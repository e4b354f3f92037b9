"""The rows of a finished sweep as JSON lines, CSV and Parquet, one row in memory at a time."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from dflash_sim.profiles.errors import UsageError, to_install, unknown
from dflash_sim.profiles.schema import Field, load_schema
from dflash_sim.simulator.row import Row
from dflash_sim.studies.show.files import as_text, replacement

FORMATS = ("jsonl", "csv", "parquet")
_ROWS_AT_ONCE = 1000  # a row group


def chosen_formats(asked: str | None) -> tuple[str, ...]:
    """The formats asked for; else all that this installation can write."""
    can = find_spec("pyarrow") is not None
    if asked is None:
        return FORMATS if can else FORMATS[:2]
    found = tuple(dict.fromkeys(word.strip() for word in asked.split(",")))
    for form in found:
        if form not in FORMATS:
            raise unknown(kind="--format", value=form, allowed=FORMATS)
    if "parquet" in found and not can:
        msg = f"--format parquet needs pyarrow: {to_install('cluster')}, or leave parquet out."
        raise UsageError(msg)
    return found


def write_rows(rows: Iterable[Row], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Put every row in ``folder/rows.*``; a failure leaves the files that were there."""
    paths = [folder / f"rows.{form}" for form in formats]
    with ExitStack() as stack:
        files = [
            stack.enter_context(_WRITERS[form](stack.enter_context(replacement(path))))
            for form, path in zip(formats, paths, strict=True)
        ]
        for row in rows:
            for file in files:
                file.add(row)
    return paths


class _Writer(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def add(self, row: Row) -> None: ...


class _Text:
    """JSON lines, or CSV under one header."""

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form
        self.header = form == "csv"

    def __enter__(self) -> Self:
        self.file: IO[str] = self.path.open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, row: Row) -> None:
        text = as_text([row], self.form)
        if self.form == "csv" and not self.header:
            text = text.partition("\n")[2]
        self.header = False
        self.file.write(text)


class _Parquet:
    """Columns typed by the schema of a row, so that a column of nulls has its type too."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.rows: list[Row] = []
        self.table = pa.Table
        self.schema = pa.schema([_column(pa, field) for field in load_schema()])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if len(self.rows) == _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            self.writer.write_table(self.table.from_pylist(self.rows, schema=self.schema))
        self.rows = []


def _column(pa: Any, field: Field) -> Any:
    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    name = field.type.removesuffix("?")
    if name.startswith("list["):
        kind = pa.list_(kinds[name[len("list[") : -1]])
    elif name.startswith("dict["):
        kind = pa.map_(*(kinds[part] for part in name[len("dict[") : -1].split(",")))
    else:
        kind = kinds[name]
    about = {"unit": field.unit, "description": field.description}
    return pa.field(field.name, kind, nullable=True, metadata=about)


_WRITERS: dict[str, Callable[[Path], _Writer]] = {
    "jsonl": lambda path: _Text(path, "jsonl"),
    "csv": lambda path: _Text(path, "csv"),
    "parquet": _Parquet,
}
