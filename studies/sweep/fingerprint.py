"""A fingerprint of all that rows depend on besides their scenario: program, sheets, own files."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from dflash_sim.profiles.find import roots

PACKAGE = Path(__file__).parents[2]
_CODE = ("jobs", "simulator", "calibrate", "studies")
_NOT_SHIPPED = ("gallery", "training")  # of a checkout; no row rests on them
_LIBRARIES = ("numpy",)  # whose generators and sums rows are made of


def fingerprint(files: Iterable[Path] = (), *, package: Path = PACKAGE) -> str:
    """The version, and twelve hex digits of the code, every sheet, numpy's version and ``files``.

    Rows of two machines, or of two days, belong together where it is the same.

    Parameters
    ----------
    package : where the code and the shipped sheets are
    """
    digest = hashlib.sha256()
    for name in _LIBRARIES:
        digest.update(f"{name} {version(name)}".encode())
    for name in _CODE:
        modules = sorted((package / name).rglob("*.py"))
        _add(digest, package / name, filter(_shipped, modules))
    shipped = package / "profiles"
    _add(digest, shipped, sorted(shipped.rglob("*.*")))
    folders = sorted(path.name for path in shipped.iterdir() if path.is_dir())
    for root in roots()[:-1]:  # the user's; of these only what sheets are read from
        _add(digest, root, [p for name in folders for p in sorted((root / name).rglob("*.*"))])
    for path in files:
        digest.update(path.read_bytes())
    return f"{version('dflash-sim')} {digest.hexdigest()[:12]}"


def _shipped(path: Path) -> bool:
    """True for a module that an installed package has too."""
    return not set(_NOT_SHIPPED) & set(path.parts)


def _add(digest: "hashlib._Hash", root: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
