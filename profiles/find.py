"""Find sheets by name: in the user's folders first, then among those shipped.

A name is looked up in ``profiles_dirs``, then in the folders of :func:`searching`, then in those of
``DFLASH_SIM_PROFILES``, then in the package; the first match wins.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError, unknown
from dflash_sim.profiles.one_look import listed, seen
from dflash_sim.profiles.precision import quantised_name
from dflash_sim.profiles.unserved import refuse_unmodelled, refuse_unserved
from dflash_sim.profiles.ways_in import (
    TABLE,
    UnreadableError,
    csv_table,
    parse_json,
    parse_toml,
    read_text,
)

ENV = "DFLASH_SIM_PROFILES"
FOLDERS = {
    "gpus": ("devices", ".toml"),
    "nodes": ("nodes", ".toml"),
    "models": ("models", ".json"),
    "drafters": ("drafters", "-d[fso]*.json"),  # -dflash, -dflash2, -dspark, -domino
    "eagle3": ("drafters", "-eagle3.json"),
    "datasets": ("workloads", ".toml"),
}
PAIRED = {"models": "target", "drafters": "dflash", "eagle3": "eagle3"}  # folders of a pair
Dirs = tuple[Path, ...]
_FIRST: ContextVar[Dirs] = ContextVar("first", default=())  # of this thread, not its neighbours
_MAKERS = {"nvidia", "amd", "geforce", "tesla", "instinct", "radeon", "gpu", "corporation", "tm"}
# Words about the same chip. PCIe, NVL, Laptop and counts are not among them: other machines.
_SAME_CHIP = re.compile(
    r"sxm\d?|hbm\d?e?|oam|blackwell|hopper|server|edition|gpu|ac|\d+(?:gb?|gib)|accelerator"
)
_SIZE_GB = re.compile(r"(?<![\d.])(\d+) ?G(?:i?B)?\b", re.IGNORECASE)
_COUNTED = re.compile(
    r"(\d{1,4}) ?[x\u00d7*] ?(\D.*)|(.*\w)(?: ?[x\u00d7*] ?|:)(\d{1,4})", re.IGNORECASE
)
_MIG = re.compile(r"\bmig\b|\dg\.\d+gb", re.IGNORECASE)


def roots(profiles_dirs: Dirs = ()) -> tuple[Path, ...]:
    """Folders that are searched, the user's first."""
    given = [*profiles_dirs, *users_folders()]
    for folder in given:
        if not folder.is_dir():
            msg = f"profiles folder '{folder}' does not exist (from --profiles or {ENV})"
            raise UsageError(msg)
    return (*given, Path(str(files("dflash_sim.profiles"))))


def users_folders() -> Dirs:
    """Return the folders that are searched before the package, wherever they were named."""
    return (*_FIRST.get(), *map(Path, filter(None, os.environ.get(ENV, "").split(os.pathsep))))


def search_first(folders: Sequence[Path]) -> None:
    """Search these folders before the others, for as long as this context lasts.

    Raises
    ------
    UsageError
        One of them is no directory.
    """
    for folder in folders:
        if not folder.is_dir():
            msg = f"--profiles {folder}: no such directory; give one that holds sheets."
            raise UsageError(msg)
    _FIRST.set((*folders, *_FIRST.get()))


@contextmanager
def searching(folders: Sequence[Path]) -> Iterator[None]:
    """Search these folders first, in this block and in worker processes that it begins."""
    before = _FIRST.get()
    search_first(folders)
    try:
        yield
    finally:
        _FIRST.set(before)


def sheets(folder: str, suffix: str, profiles_dirs: Dirs = ()) -> Iterator[Path]:
    """Every sheet of ``folder``, in order of precedence."""
    for root in roots(profiles_dirs):
        yield from listed(root / folder, suffix)


def sheet_names(folder: str, suffix: str, profiles_dirs: Dirs = ()) -> list[str]:
    """Names of the sheets in ``folder``, sorted."""
    return sorted({path.stem for path in sheets(folder, suffix, profiles_dirs)})


def names(kind: str, profiles_dirs: Dirs = ()) -> list[str]:
    """Names that can be loaded; ``kind`` is a key of :data:`FOLDERS`."""
    if kind not in FOLDERS:
        what = "kind of sheet"
        raise unknown(what, kind, FOLDERS)
    return sheet_names(*FOLDERS[kind], profiles_dirs)


def find_sheet(folder: str, name: str, suffix: str, profiles_dirs: Dirs = ()) -> Path | None:
    """The first sheet of ``folder`` called ``name`` or with that alias, in any case.

    ``Org/Name`` of a model is also another's upload of the ``Name`` that is known.
    """
    wanted = name.lower()
    for root in roots(profiles_dirs):
        paths = listed(root / folder, suffix)
        for path in paths:
            if path.stem.lower() == wanted:
                return path
        for path in paths:
            if wanted in aliases(path):
                return path
    owner, slash, bare = wanted.partition("/")
    if folder == "models" and owner and slash and "/" not in bare:
        return find_sheet(folder, bare, suffix, profiles_dirs)
    return None


@dataclass(frozen=True)
class GpuName:
    """A GPU's name taken apart: ``NVIDIA GeForce RTX 5090``, ``rtx5090`` and ``5090`` are one GPU.

    ``H100 PCIe`` and ``RTX 5090 D`` are others than the H100 and the RTX 5090: such words stay.

    Parameters
    ----------
    keys
        What a sheet may be called, the whole name first, then with less of what may be left out.
    sizes_gb
        Sizes of memory that it names [GB].
    """

    keys: tuple[str, ...]
    sizes_gb: tuple[float, ...]


def parsed_gpu(text: str) -> GpuName:
    """Take a name apart; a slice of a GPU is no GPU, and has no keys."""
    plain = re.sub(r"\([^)]*\)|[®™]", " ", text).lower()
    if _MIG.search(plain):
        return GpuName((), ())
    words = [w for w in re.split(r"[\s_/\-]+", plain) if w and w not in _MAKERS]
    keys = []
    while words:
        keys.append("".join(words))
        if not _SAME_CHIP.fullmatch(words.pop()):
            break
    return GpuName(tuple(keys), tuple(map(float, _SIZE_GB.findall(plain))))


def gpu_key(name: str) -> str:
    """The key of a sheet's name or alias."""
    return next(iter(parsed_gpu(name).keys), name.lower())


def find_gpu(text: str, profiles_dirs: Dirs = ()) -> Path | None:
    """The sheet of a GPU by its name, an alias, or the name that its maker's tools print."""
    exact = find_sheet("devices", text, ".toml", profiles_dirs)
    if exact is not None:
        return exact
    paths = list(sheets("devices", ".toml", profiles_dirs))
    for key in parsed_gpu(text).keys:
        for path in paths:
            if key in {gpu_key(name) for name in (path.stem, *aliases(path))}:
                return path
    return None


def require_sheet(kind: str, name: str, profiles_dirs: Dirs = ()) -> Path:
    """Find a sheet as :func:`find_sheet` does; an unknown name is an error that lists names."""
    if kind == "gpus":
        path = find_gpu(name, profiles_dirs)
    else:
        path = find_sheet(FOLDERS[kind][0], name, FOLDERS[kind][1], profiles_dirs)
    if path is None:
        if kind == "gpus":
            refuse_unserved(name)
            _refuse_count(name, profiles_dirs)
        if kind == "models":
            refuse_unmodelled(name)
        refuse_quantised(kind, name, profiles_dirs)
        hint = "" if kind not in PAIRED else "Or give the path of its config.json."
        raise unknown(_singular(kind), name, names(kind, profiles_dirs), hint)
    return path


def _singular(kind: str) -> str:
    return {"gpus": "GPU", "eagle3": "EAGLE-3 head"}.get(kind, kind.removesuffix("s"))


def _refuse_count(text: str, profiles_dirs: Dirs) -> None:
    """Refuse several GPUs where the name of one is expected, such as ``8xH100``."""
    found = _COUNTED.fullmatch(text.strip())
    gpu = find_gpu(found[2] or found[3], profiles_dirs) if found else None
    if found is None or gpu is None:
        return
    count = int(found[1] or found[4])
    msg = f"'{text}' is {count} GPUs; give --gpu {gpu.stem} --tp {count}."
    raise UsageError(msg)


def refuse_quantised(kind: str, name: str, profiles_dirs: Dirs = ()) -> None:
    """Refuse a name that no sheet has if it says that its checkpoint is quantised.

    Raises
    ------
    UsageError
        Naming the format, and the model that can be asked for in its place.
    """
    found = quantised_name(name) if kind != "gpus" and "," not in name else None
    if found is None:
        return
    form, bare = found
    folder, suffix = FOLDERS[kind]
    twin = find_sheet(folder, bare, suffix, profiles_dirs) or find_sheet(
        folder, bare.rpartition("/")[2], suffix, profiles_dirs
    )
    if twin:
        ask = f"what is asked for here is in bf16. Give {twin.stem}."
    else:
        known, hint = names(kind, profiles_dirs), "Or give the folder of its config.json."
        last = bare.rpartition("/")[2]
        ask = f"no sheet has its model: {unknown(_singular(kind), last, known, hint)}"
    msg = f"'{name}' is quantised to {form}, by its name; {ask}"
    raise UsageError(msg)


def find_in_pair(kind: str, name: str, profiles_dirs: Dirs = ()) -> Path | None:
    """The config of a network of the trained pair called ``name``, such as ``tiny``."""
    for root in roots(profiles_dirs):
        for path in sorted((root / "pairs").glob(f"*/{PAIRED[kind]}/config.json")):
            if path.parents[1].name == name.lower():
                return path
    return None


def aliases(path: Path) -> set[str]:
    """Other names of a sheet, lower case; ``Org/Name`` is known as ``Name`` too."""
    raw = read_sheet(path)
    listed = raw.get("aliases", raw.get("_aliases", []))
    if not isinstance(listed, list):
        msg = f"{path}: aliases must be a list"
        raise UsageError(msg)
    full = {str(alias).lower() for alias in listed}
    return full | {alias.rsplit("/", 1)[-1] for alias in full}


def stands_for(name: str, sheet: str) -> str | None:
    """Say that a model called ``name`` is answered by the sheet of another of the same network.

    A longer or shorter form of the sheet's own name is the same model: None.
    """
    asked, own = (text.lower().replace("_", ".") for text in (name.rpartition("/")[2], sheet))
    short, long = sorted((asked, own), key=len)
    if re.search(rf"(?<![\w.]){re.escape(short)}(?![\w.])", long):
        return None
    return f"{name} is taken to have the network of {sheet}, from whose sheet it is answered"


def read_sheet(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as a dict."""
    return seen(path, _parsed)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by column; none where there is no such file."""
    return seen(path, _table) if path.is_file() else []


def _table(path: Path) -> list[dict[str, str]]:
    try:
        return csv_table(read_text(path, TABLE))
    except UnreadableError as error:
        msg = f"cannot read {path}: {error}; correct it or name another."
        raise UsageError(msg) from error


def _parsed(path: Path) -> dict[str, Any]:
    try:
        raw = (parse_toml if path.suffix == ".toml" else parse_json)(read_text(path))
    except UnreadableError as error:
        msg = f"cannot read {path}: {error}; correct it or name another."
        raise UsageError(msg) from error
    if not isinstance(raw, dict):
        msg = f"{path}: expected an object, got {type(raw).__name__}"
        raise UsageError(msg)
    return raw
