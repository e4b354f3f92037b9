"""Names as people write them -> names of sheets; what no sheet stands for is refused by name."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_sim.profiles.checkpoints import find_checkpoint
from dflash_sim.profiles.errors import DflashSimError, UsageError, unknown
from dflash_sim.profiles.find import FOLDERS, aliases, find_gpu, read_csv, refuse_quantised, roots
from dflash_sim.profiles.formats import quantises_online, quantization_name
from dflash_sim.profiles.load import (
    load_dataset,
    load_device,
    load_model,
)
from dflash_sim.profiles.one_look import listed
from dflash_sim.profiles.precision import called, quantised_name
from dflash_sim.profiles.times.machine_profile import is_profile, load_measured
from dflash_sim.profiles.unserved import refuse_unserved
from dflash_sim.simulator.cost.methods import METHODS, spellings

_LENGTHS = re.compile(
    r"(?:random|fixed|in=|\bin\b)\D*?(\d{2,})\s*(?:in)?\W*(?:out=)?\W*(\d{2,})", re.IGNORECASE
)
_UNSTATED = {"", "unstated", "unknown", "n/a", "na", "-"}


@dataclass(frozen=True)
class Workload:
    """The workload that a data set's name means: a sheet, or fixed lengths [token]; or all None."""

    dataset: str | None = None
    isl: int | None = None
    osl: int | None = None


def of_checkpoint(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a row with the checkpoint that was served, where its model is named without.

    People write ``qwen3-8b`` and ``awq`` in two columns; what ran is the AWQ checkpoint. Of a model
    that is published in another format, only a checkpoint that is listed will do.

    Raises
    ------
    UsageError
        No precision is called what the row says.
    """
    model, said = fields.get("model"), fields.get("quantization")
    if model is None or said is None:
        return dict(fields)
    name = quantization_name(said)
    one = None if quantises_online(name) else called(model, name)
    found = find_checkpoint(one) if one else None
    if found is None or (found.assumed and load_model(model).quantized is not None):
        return dict(fields)
    return dict(fields) | {"model": found.name}


class Names:
    """Every sheet's name and aliases, read once."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, str]] = {}
        self._networks: dict[tuple[str, str, str | None], str | None] = {}
        self._sources: dict[str, dict[str, str]] | None = None
        self.assumed_model: str | None = None
        self.stood_in: list[str] = []  # names that gave way to it, each time

    def find(self, kind: str, name: str) -> str | None:
        """The sheet of ``kind`` (a key of ``profiles.find.FOLDERS``) with that name or alias."""
        return self._table(kind).get(name.strip().lower())

    def _table(self, kind: str) -> dict[str, str]:
        if kind not in self._tables:
            folder, suffix = FOLDERS[kind]
            table = self._tables[kind] = {}
            for root in roots():
                paths = listed(root / folder, suffix)
                for path in paths:
                    table.setdefault(path.stem.lower(), path.stem)
                for path in paths:
                    for alias in aliases(path):
                        table.setdefault(alias, path.stem)
        return self._tables[kind]

    def published(self, source_id: str) -> Mapping[str, str]:
        """Return what ``published/sources.csv`` says of a source, the user's first."""
        if self._sources is None:
            self._sources = {}
            for root in roots():
                for row in read_csv(root / "published" / "sources.csv"):
                    self._sources.setdefault(row.get("source_id", ""), row)
        return self._sources.get(source_id, {})

    def _unknown(self, kind: str, what: str, name: str, hint: str) -> UsageError:
        return unknown(what, name, set(self._table(kind).values()), hint)

    def gpu(self, text: str) -> tuple[str, int | None]:
        """``b200, 8`` for ``8x NVIDIA B200``; a size that is not the sheet's is another GPU.

        A machine that was measured is named by its profile.
        """
        if is_profile(text):
            load_measured(text)
            return text, None
        counted = re.match(r"\s*(\d{1,4}) ?[x×*] ?(?=[A-Za-z0-9])", text)  # noqa: RUF001
        name = text[counted.end() :] if counted else text
        found = find_gpu(name)
        if found is None:
            refuse_unserved(name)
            kind, what, hint = "gpus", "GPU", "Write devices/<name>.toml for another."
            raise self._unknown(kind, what, text, hint)
        load_device(name)  # which refuses another size of memory
        return found.stem, int(counted[1]) if counted else None

    def model(self, text: str, *others: str) -> str:
        """``qwen3-8b`` for ``Qwen/Qwen3-8B`` or a folder of that name.

        A name that stands for nothing here, such as that under which a server answers, gives way
        to the model that is assumed, if one is. A known model in a format that is not priced does
        not: another format is another speed.

        Parameters
        ----------
        others
            What else the file calls it, such as by its tokenizer.
        """
        try:
            return self.known_model(text)
        except DflashSimError as error:
            for other in others:
                with suppress(DflashSimError):
                    return self.known_model(other)
            _, bare = quantised_name(text) or ("", "")
            if self.find("models", bare) or self.find("models", _last(bare)):
                raise
            if self.assumed_model is None:
                msg = f"{error} Or say which it is with --assume model=NAME."
                raise UsageError(msg) from None
            self.stood_in.append(text)
            return self.assumed_model

    def known_model(self, text: str) -> str:
        """The model of that name, alias, path or checkpoint.

        Raises
        ------
        UsageError
            There is none, or not in that format.
        """
        found = self.find("models", text) or self.find("models", _last(text))
        if found:
            return found
        if _is_network(text):
            return text
        if checkpoint := find_checkpoint(text):
            return checkpoint.name
        kind, what = "models", "model"
        refuse_quantised(kind, text)
        raise self._unknown(kind, what, text, "Write models/<name>.json for another.")

    def drafter(self, text: str) -> str | None:
        """The DFlash drafter or EAGLE-3 head meant; None if no sheet has that name."""
        bare = re.sub(r"\([^)]*\)", " ", text)
        bare = re.sub(r"@(?!orig)[\w.]+", " ", bare).strip()
        last = _last(bare.split()[-1]) if bare else ""
        for name in (bare, last, re.sub(r"(?i)-b\d+$", "", last)):
            if found := self.find("drafters", name) or self.find("eagle3", name):
                old = re.search(r"(?i)\borig", text)  # replaced since under the same name
                return None if old else found
        return text if _is_network(text) else None

    def method(self, text: str) -> str:
        """A method of speculation by its name or another that people have for it."""
        known = spellings()
        found = known.get(text.strip().lower())
        if found is None:
            what = "method"
            hint = "Trees, samplers and other drafters are not simulated."
            raise unknown(what, text, known, hint)
        return found

    def check_network(self, method: str, model: str, drafter: str | None = None) -> None:
        """Refuse a method for which no drafting network of the model is known."""
        own = drafter if drafter is not None and _is_network(drafter) else None
        asked = (method, model, own)
        if asked not in self._networks:
            self._networks[asked] = _missing_network(*asked)
        if reason := self._networks[asked]:
            raise UsageError(reason)

    def workload(self, text: str) -> Workload:
        """A data set's sheet, or the lengths in ``random 8192in/1024out``."""
        bare = re.sub(r"\([^)]*\)", " ", text).strip()
        for name in (text, bare, re.sub(r"(?i)\s+(?:\w+\s+)?split$", "", bare)):
            if found := self.find("datasets", name):
                return Workload(dataset=found)
        if lengths := _LENGTHS.search(text):
            return Workload(isl=int(lengths[1]), osl=int(lengths[2]))
        return Workload()

    def unknown_workload(self, text: str) -> UsageError:
        """The complaint about a data set without sheet or lengths."""
        kind, what = "datasets", "dataset"
        hint = "Write workloads/<name>.toml, or give isl and osl."
        return self._unknown(kind, what, text, hint)

    def mean_isl(self, dataset: str) -> int:
        """Mean prompt of a data set's first turn [token]."""
        return round(load_dataset(dataset).isl[0].mean.si)


def stated(text: str | None) -> str | None:
    """The text, or None where it says that it is not stated."""
    return None if text is None or text.strip().lower() in _UNSTATED else text.strip()


def _last(text: str) -> str:
    return text.rstrip("/").rsplit("/", 1)[-1]


def _is_network(text: str) -> bool:
    """Return True for the path of a config, or of a folder with a ``config.json``."""
    with suppress(OSError, ValueError):  # a text that is no path
        path = Path(text)
        there = path.suffix == ".json" and path.is_file()
        return "/" in text and (there or (path / "config.json").is_file())
    return False


def _missing_network(method: str, model: str, drafter: str | None) -> str | None:
    try:
        METHODS[method].load_drafter(model, drafter)
    except DflashSimError as error:
        return f"method {method}: {error}"
    return None
