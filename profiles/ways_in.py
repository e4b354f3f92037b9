"""The one way in for a file that somebody names: its kind, its size and its depth are bounded.

Nothing is handed to a parser before it is known to be a file of a size that can be read, and what
a parser says of bad input becomes one line. Every reader of the program begins here.
"""

import csv
import io
import json
import os
import re
import stat
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError, close_to

MIB = 1 << 20
SHEET = 16 * MIB  # the largest of ours, a calibration, has 0.1 MiB
TABLE = 512 * MIB  # rows of benchmarks and traces of requests
_CHUNK = MIB
_ALIASES = 64  # uses of an anchor in a YAML file; each may double what the file means
_DEEPEST_YAML, _LONGEST_YAML = 64, 256 * 1024  # brackets; letters, of which 50,000 take a second
_YAML_DATE, _YAML_MERGE = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge"
# Not 010 for eight, 1:30 for ninety or 1_0 for ten: these stay words, and are read as flags are.
_YAML_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$"
        r"|\.(?:nan|NaN|NAN)$"
    ),
}
_LONGEST_CELL = 1 << 24  # letters of a CSV cell
_GZIP = b"\x1f\x8b"


class UnreadableError(ValueError):
    """A file cannot be read; the text says why, and follows the name of the file."""


def named_path(name: str | os.PathLike[str]) -> Path:
    """Return the path that a name stands for, ``~`` included; an unknown ``~user`` stays."""
    path = Path(os.fspath(name))
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def there(path: Path) -> Path:
    """Return the path of a file that was asked for by name.

    Raises
    ------
    UsageError
        There is none; it says which file of that folder may be meant.
    """
    path = named_path(path)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise _absent(path, error) from None
    return path


def _absent(path: Path, error: OSError | ValueError) -> UsageError:
    """The error about a file that is not there, or that no name of this kind can be."""
    if not isinstance(error, FileNotFoundError):
        return UsageError(f"{path}: {_refused(error)}")
    beside: list[str] = []
    with suppress(OSError, ValueError):
        beside = [each.name for each in path.parent.iterdir()]
    close = [str(path.parent / name) for name in close_to(path.name, beside)]
    guess = f"; did you mean {' or '.join(close)}?" if close else "."
    return UsageError(f"{path}: there is no such file{guess}")


def is_there(name: str | os.PathLike[str]) -> bool:
    """Return True if a name is that of a file or folder; one that none can have is not."""
    try:
        return named_path(name).exists()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, most: int = SHEET) -> bytes:
    """Return what a file holds, unpacked if it is gzip.

    Raises
    ------
    UnreadableError
        It is no file, cannot be opened, or holds more than ``most`` bytes, packed or not.
    """
    raw = _read(path, most)
    return _unpacked(raw, most) if raw[:2] == _GZIP else raw


def read_text(path: Path, most: int = SHEET) -> str:
    """Return the text of a file, without the mark that spreadsheets put before it.

    Raises
    ------
    UnreadableError
        As :func:`read_bytes`; or it is not text.
    """
    try:
        text = read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"it is not text (byte {error.start}); unpack it, or name another file"
        raise UnreadableError(msg) from None
    if "\0" in text:
        msg = "it is not text (it holds zero bytes); name another file"
        raise UnreadableError(msg)
    return text


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises
    ------
    UnreadableError
        It is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(_said("JSON", error)) from error


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    UsageError
        It cannot be read, or holds something else.
    """
    try:
        found = parse_json(read_text(path))
    except UnreadableError as error:
        msg = f"{path}: cannot be read as JSON: {error}"
        raise UsageError(msg) from error
    if not isinstance(found, dict):
        msg = f"{path}: expected a JSON object"
        raise UsageError(msg)
    return found


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text says; raises as :func:`parse_json`."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(_said("TOML", error)) from error


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says; dates and odd numbers are text. Raises as :func:`parse_json`.

    Anchors may be used a few times, not to write a large text as a small one.
    """
    documents = parse_yamls(text, most=1)
    return documents[0] if documents else None


def parse_yamls(text: str, *, most: int) -> list[Any]:
    """Return what each of up to ``most`` YAML documents says; raises as :func:`parse_yaml`."""
    import yaml  # 20 ms that only YAML needs

    if len(text) > _LONGEST_YAML:
        msg = f"it is YAML of more than {_LONGEST_YAML // 1024} KiB; give a part of it"
        raise UnreadableError(msg)
    try:
        loader = _yaml_loader()(text)
        try:
            found: list[Any] = []
            while loader.check_data():
                if len(found) == most:
                    msg = f"more than {most} document{'s' * (most > 1)}"
                    raise yaml.YAMLError(msg)
                found.append(loader.get_data())
            return found
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise UnreadableError(_said("YAML", error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # The parser's own, of a value that is not what its tag says, such as !!int "abc".
        msg = "it is not YAML: a value is not of the kind that its tag or its form says"
        raise UnreadableError(msg) from error


@contextmanager
def reading_csv() -> Iterator[None]:
    """Around a reader of ``csv``: long cells are read, and what it refuses is one line."""
    csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    except csv.Error as error:
        raise UnreadableError(_said("CSV", error)) from error


def csv_table(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV text by column, as ``csv.DictReader`` has them.

    Cells that a row lacks are None: whoever reads a row says which line it is.

    Raises
    ------
    UnreadableError
        As :func:`parse_json`.
    """
    with reading_csv():
        return list(csv.DictReader(io.StringIO(text, newline="")))


def _read(path: Path, most: int) -> bytes:
    try:
        path = named_path(path)
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in it
        raise UnreadableError(_refused(error)) from error
    try:
        kind = os.fstat(handle)
        piped = stat.S_ISFIFO(kind.st_mode) and _is_ours(path)
        if stat.S_ISDIR(kind.st_mode):
            msg = "it is a folder; name a file in it"
            raise UnreadableError(msg)
        if not stat.S_ISREG(kind.st_mode) and not piped:
            msg = "it is a pipe, a socket or a device; name a file"
            raise UnreadableError(msg)
        if kind.st_size > most:
            raise UnreadableError(_too_large(most))
        if piped:
            os.set_blocking(handle, True)  # not others: the kernel has files that wait for news
        return _all_of(handle, most)
    except OSError as error:
        raise UnreadableError(_refused(error)) from error
    finally:
        os.close(handle)


def _is_ours(path: Path) -> bool:
    """Return True if a pipe is one that the shell opened for us, as ``<(zcat rows.gz)`` does."""
    return str(path).startswith(("/dev/fd/", "/proc/self/fd/")) or str(path) == "/dev/stdin"


def _all_of(handle: int, most: int) -> bytes:
    parts, size = [], 0
    while part := os.read(handle, _CHUNK):
        parts.append(part)
        size += len(part)
        if size > most:
            raise UnreadableError(_too_large(most))
    return b"".join(parts)


def _unpacked(raw: bytes, most: int) -> bytes:
    """Return what gzip members hold, one after the other."""
    parts, size = [], 0
    try:
        while raw:
            member = zlib.decompressobj(wbits=31)
            part = member.decompress(raw, most + 1 - size)
            size += len(part)
            if size > most:
                raise UnreadableError(_too_large(most))
            if not member.eof:
                msg = "it is gzip, and cut off; pack it again"
                raise UnreadableError(msg)
            parts.append(part)
            raw = member.unused_data.lstrip(b"\0")
    except zlib.error:
        msg = "it is gzip, and damaged; pack it again"
        raise UnreadableError(msg) from None
    return b"".join(parts)


def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader with few aliases, little depth, each key once, numbers as flags are."""

        used = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                self.used += 1
                if self.used > _ALIASES:
                    msg = f"more than {_ALIASES} aliases; write the values out"
                    raise yaml.YAMLError(msg)
            return super().compose_node(parent, index)

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if twice := [key for key, times in keys.items() if times > 1]:
                msg = f"'{twice[0]}' is said twice; say it once"
                raise yaml.YAMLError(msg)
            return node

        def flatten_mapping(self, node: Any) -> None:
            """Put what is merged before the own; PyYAML 6.0.4 gets a merge of a merge wrong."""
            pairs: dict[Any, Any] = {}
            own = [pair for pair in node.value if pair[0].tag != _YAML_MERGE]
            for each in _merged(node):
                self.flatten_mapping(each)
                pairs = {_name(key): (key, value) for key, value in each.value} | pairs
            node.value = list((pairs | {_name(key): (key, value) for key, value in own}).values())

        def fetch_flow_collection_start(self, token: Any) -> None:
            if self.flow_level > _DEEPEST_YAML:  # the time to read it is the square of its depth
                msg = "it is nested too deeply"
                raise yaml.YAMLError(msg)
            super().fetch_flow_collection_start(token)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, _YAML_NUMBERS.get(tag, form)) for tag, form in forms if tag != _YAML_DATE]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def _merged(node: Any) -> Iterator[Any]:
    """The mappings that ``<<`` of a mapping names."""
    import yaml

    for key, value in node.value:
        if key.tag == _YAML_MERGE:
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(each, yaml.MappingNode):
                    msg = "<< takes mappings, such as <<: *a"
                    raise yaml.YAMLError(msg)
                yield each


def _name(key: Any) -> Any:
    return key.value if isinstance(key.value, str) else id(key)


def _too_large(most: int) -> str:
    return f"it holds more than {most // MIB} MiB; give a part of it"


def _refused(error: Exception) -> str:
    return f"it cannot be read: {getattr(error, 'strerror', None) or error}"


def _said(form: str, error: Exception) -> str:
    why = " ".join(str(error).split())
    if isinstance(error, RecursionError):
        why = "it is nested too deeply"
    elif "integer string conversion" in why:
        why = "a number has thousands of digits"
    return f"it is not {form}: {why[:200]}"
