"""What rows depend on besides their scenario: the program, its sheets, and the user's files."""

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from dflash_sim.profiles.find import roots

_CODE = ("simulator", "profiles", "calibrate")


def fingerprint(files: Iterable[Path] = ()) -> str:
    """The version, and twelve hex digits of the code, every sheet and ``files``.

    Rows of two machines, or of two days, belong together where it is the same.
    """
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in _CODE:
        _add(digest, package / name, sorted((package / name).glob("*.py")))
    folders = sorted(path.name for path in (package / "profiles").iterdir() if path.is_dir())
    for root in roots():
        _add(digest, root, [p for name in folders for p in sorted((root / name).rglob("*.*"))])
    for path in files:
        digest.update(path.read_bytes())
    return f"{version('dflash-sim')} {digest.hexdigest()[:12]}"


def _add(digest: "hashlib._Hash", root: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
