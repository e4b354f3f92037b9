"""Find and read aiconfigurator-core's tables; none of its code runs."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import MissingProfileError, UsageError, to_install, unknown
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.units import MS, US

PACKAGE = "aiconfigurator-core"
SYSTEMS = {
    "a100_sxm": "a100",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100_sxm": "h100",
    "h200_sxm": "h200",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx_pro_6000",
}
LETTERS = {"sglang": "s", "vllm": "v", "trtllm": "t", "nccl": "n"}

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """One file that numbers came from.

    Parameters
    ----------
    letter : how rows of our tables name it
    framework, version : what was measured
    path : below the data directory, with forward slashes
    sha256 : of the whole file
    """

    letter: str
    framework: str
    version: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Library:
    """The tables of one system.

    Parameters
    ----------
    root : directory holding one folder per system
    system : folder name, such as ``b200_sxm``
    origin : package and version, or the directory the user gave
    """

    root: Path
    system: str
    origin: str

    @property
    def gpu(self) -> str:
        """Our name of the GPU."""
        return SYSTEMS[self.system]

    def newest(self, family: str, framework: str, file: str) -> Path | None:
        """File of the highest version, or ``None``."""
        found = (self.root / self.system / family / framework).glob(f"*/{file}")
        return max(found, key=lambda path: version_key(path.parent.name), default=None)

    def every(self, family: str, framework: str, file: str) -> list[Path]:
        """Files of all versions, the highest first."""
        found = (self.root / self.system / family / framework).glob(f"*/{file}")
        return sorted(found, key=lambda path: version_key(path.parent.name), reverse=True)

    @property
    def memory_byte_s(self) -> float:
        """Return what the memory of the GPU delivers by its data sheet [byte/s]."""
        return load_device(self.gpu).mem_bw_byte_s

    def source(self, path: Path) -> Source:
        """Return where ``path`` came from, with its digest."""
        framework = path.parts[-3]
        return Source(
            letter=LETTERS[framework],
            framework=framework,
            version=path.parts[-2],
            path=path.relative_to(self.root).as_posix(),
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )


def open_library(system: str, data_dir: str | Path | None) -> Library:
    """Tables of ``system``, from ``data_dir`` or from the installed package."""
    names = {gpu: name for name, gpu in SYSTEMS.items()}
    folder = names.get(system, system)
    if folder not in SYSTEMS:
        raise unknown(kind="system", value=system, allowed={*SYSTEMS, *names})
    root = Path(data_dir) if data_dir is not None else _installed()
    if not (root / folder).is_dir():
        msg = f"no folder {folder} in {root}; --data-dir is the one that holds it"
        raise UsageError(msg)
    return Library(root=root, system=folder, origin=_origin(data_dir))


def read_rows(
    path: Path, columns: Sequence[str], where: Mapping[str, Iterable[object]]
) -> list[Row]:
    """Rows of ``path`` as tuples of ``columns``, the last a time; ``where`` lists wanted values.

    Old tables have no sliding window: a missing ``window_size`` reads as 0. A time must be above
    zero.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        msg = f"reading parquet needs pyarrow; run {to_install('silicon')}"
        raise MissingProfileError(msg) from error
    try:
        table = pq.read_table(path)
        for name in {*columns, *where} - {*table.column_names, "window_size"}:
            msg = f"{path} has no column {name}"
            raise UsageError(msg)
        for name, wanted in where.items():
            values = pa.array(sorted(wanted, key=str)).cast(table[name].type)
            table = table.filter(pc.is_in(table[name], values))
        zeros = [0] * table.num_rows
        read = [table[c].to_pylist() if c in table.column_names else zeros for c in columns]
    except (pa.ArrowException, OSError) as error:
        msg = f"cannot read {path}: {str(error).splitlines()[0]}"
        raise UsageError(msg) from error
    rows = list(zip(*read, strict=True))
    least = MS * US  # shorter than any clock tells
    if any(None in row or not least <= row[-1] < inf for row in rows):  # latency comes last
        msg = f"{path} has a time that is not a positive number, or an empty cell"
        raise UsageError(msg)
    return rows


def version_key(text: str) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
    """Order of versions: numbers first, a release after its own candidates; others before all."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)\.?([a-z]*)(.*)", text)
    if found is None:
        return (), False, ()
    release, mark, rest = found.groups()
    return (
        tuple(int(part) for part in release.split(".")),
        mark not in {"rc", "dev"},
        tuple(int(part) for part in re.findall(r"\d+", rest)),
    )


def _installed() -> Path:
    spec = find_spec("aiconfigurator_core")
    if spec is None or spec.origin is None:
        msg = f"{PACKAGE} is not installed; run {to_install('silicon')} or pass --data-dir"
        raise MissingProfileError(msg)
    return Path(spec.origin).parent / "systems" / "data"


def _origin(data_dir: str | Path | None) -> str:
    if data_dir is not None:
        return "a data directory"
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return PACKAGE
