"""The sheet of number formats: bits of a value, what it is multiplied in, who has kernels.

A new precision is a new table of ``formats.toml``.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from dflash_sim.profiles.errors import InfeasibleError, UsageError, unknown
from dflash_sim.profiles.typed_table import read_table

SHEET = Path(__file__).parent / "formats.toml"
PLAIN = "bfloat16"  # what every GPU multiplies in, and every table was timed in


@dataclass(frozen=True)
class KeysAndValues:
    """A format of the KV cache: who cannot read it, who multiplies in it, and what it is called.

    Parameters
    ----------
    like
        Formats whose times stand in, scaled by rooflines; bfloat16 is the last.
    runs_on
        Architectures with kernels for it; none named: all.
    not_read_by, not_read_on
        Backends that cannot read it, anywhere and by architecture.
    unpacked_on, unpacked_rows
        Architectures that have no instruction that makes bf16 of it, and take several; rows of
        queries, of all heads of a group, that share what these made.
    """

    spelled: tuple[str, ...]
    like: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    not_read_by: tuple[str, ...] = ()
    not_read_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unpacked_on: tuple[str, ...] = ()
    unpacked_rows: int = 1
    multiplied_by: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Format:
    """One number format.

    Parameters
    ----------
    bits
        Of a value, its share of scales and zeros included.
    products
        The format that tensor cores multiply in.
    block
        Values on a side of the blocks that share a scale, which no rank may have part of.
    quantises
        The format that a kernel of its own puts activations into; empty if none does.
    table, like
        Its name in operator tables (empty: its own), and the formats that stand in there.
    runs_on, otherwise
        Architectures with kernels for it (none named: all), and the format that others run it as.
    spelled, also
        SGLang's ``--quantization`` for it, and what else people call the first of them.
    online
        Those of ``spelled`` that quantise a bf16 checkpoint, and its drafter, as they are loaded.
    only
        Modules that it is made for; none named: every linear layer.
    kv
        Its part in KV caches; None if nothing is cached in it.
    """

    bits: float
    source: str
    title: str = ""
    products: str = PLAIN
    block: int = 1
    quantises: str = ""
    table: str = ""
    like: tuple[str, ...] = ()
    runs_on: tuple[str, ...] = ()
    otherwise: str = ""
    spelled: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    kv: KeysAndValues | None = None


@cache
def formats() -> Mapping[str, Format]:
    """Every number format by its name, as the sheet has them."""
    raw = tomllib.loads(SHEET.read_text(encoding="utf-8"))
    found = {}
    for name, table in raw.items():
        kv = table.pop("kv", None)
        own = read_table(KeysAndValues, kv, f"{SHEET}, {name}.kv") if kv else None
        found[name] = replace(read_table(Format, table, f"{SHEET}, {name}"), kv=own)
    return MappingProxyType(found)


def format_of(name: str) -> Format:
    """The format of that name.

    Raises
    ------
    UsageError
        There is no such format; names those that there are.
    """
    found = formats().get(name)
    if found is None:
        raise unknown(kind="number format", value=name, allowed=formats())
    return found


def bytes_of(name: str) -> float:
    """Bytes that one value takes, its share of a scale included."""
    return format_of(name).bits / 8


def kernels_on(name: str, *, arch: str, gpu: str) -> str:
    """The format whose kernels an architecture runs weights of format ``name`` with.

    A GPU whose architecture is not known, as in a measured profile, is taken to have kernels that
    take weights apart; one of an architecture that no format names has none.

    Raises
    ------
    InfeasibleError
        There are none; says which formats of ``--quantization`` the GPU runs.
    """
    found = runs_as(name, arch)
    if found is not None:
        return found
    can = ", ".join(f.spelled[0] for f in formats().values() if f.spelled and _reaches(f, arch))
    msg = (
        f"SGLang has no kernels for {name} weights on {gpu}{f' ({arch})' if arch else ''}; it runs "
        f"there: {can}. Give one with --quantization, or another --gpu."
    )
    raise InfeasibleError(msg)


def runs_as(name: str, arch: str) -> str | None:
    """The format whose kernels run weights of format ``name``; None if an architecture has none."""
    seen, at = [], name
    while at and at not in seen:
        seen.append(at)
        form = format_of(at)
        if _runs(form, arch):
            return at
        at = form.otherwise
    return None


def _runs(form: Format, arch: str) -> bool:
    if not form.runs_on or arch in form.runs_on:
        return True
    return not arch and form.products == PLAIN


def _reaches(form: Format, arch: str) -> bool:
    """Return True if an architecture runs a format by its own kernels or by those it names."""
    return _runs(form, arch) or bool(form.otherwise and _reaches(format_of(form.otherwise), arch))


def format_named(quantization: str) -> str:
    """The format that weights have under a name of :func:`quantization_name`.

    Raises
    ------
    UsageError
        The name leaves it to the files of a checkpoint.
    """
    named = {n: name for name, form in formats().items() for n in form.spelled}
    if quantization not in named:
        msg = (
            f"--quantization {quantization} reads the format from the files of a checkpoint, and "
            f"this one is in bf16; name a quantised checkpoint, or give one of {', '.join(named)}."
        )
        raise UsageError(msg)
    return named[quantization]


def online_names() -> tuple[str, ...]:
    """Names of ``--quantization`` that quantise a bf16 checkpoint while it is loaded."""
    return tuple(name for form in formats().values() for name in form.online)


def quantises_online(quantization: str | None) -> bool:
    """Return True if a server quantises what it loads in bf16, the drafter too."""
    return quantization in online_names()


def quantization_name(text: str) -> str:
    """SGLang's ``--quantization`` for what somebody calls a precision of weights.

    Raises
    ------
    UsageError
        No format is called that.
    """
    wanted = text.strip().casefold().replace("-", "_")
    for name in OF_CHECKPOINTS:
        if _SHORT.get(wanted, wanted).replace("-", "_") == name.replace("-", "_"):
            return name
    for form in formats().values():
        if wanted in form.spelled:
            return wanted
        if wanted in form.also:
            return form.spelled[0]
    named = [n for f in formats().values() for n in f.spelled]
    raise unknown(kind="quantization", value=text, allowed=[*named, *OF_CHECKPOINTS])


# Values of --quantization that leave the formats to the files of the checkpoint.
OF_CHECKPOINTS = ("compressed-tensors", "modelopt", "modelopt_mixed", "quark", "auto-round")
_SHORT = {"inc": "auto-round", "autoround": "auto-round"}


def kv_format(text: str) -> str:
    """The format of keys and values that ``--kv-cache-dtype`` names.

    Raises
    ------
    UsageError
        There is no such format of a cache.
    """
    wanted = text.strip().casefold()
    cached = {n: name for name, f in formats().items() if f.kv for n in f.kv.spelled}
    if wanted not in cached:
        raise unknown(kind="kv cache dtype", value=text, allowed=["auto", *cached])
    return cached[wanted]


def check_kv(
    name: str,
    *,
    backend: str,
    backends: tuple[str, ...],
    arch: str,
    gpu: str,
    whose: str = "",
    backend_given: bool = True,
) -> None:
    """Refuse a format of keys and values that a GPU or an attention backend cannot read.

    Parameters
    ----------
    backends
        Those of the engine on this GPU, to say which can.
    whose
        What asks for the format where no flag does, such as ``the KV type of a checkpoint``.
    backend_given
        False if ``backend`` is the default of this GPU.

    Raises
    ------
    InfeasibleError
        The GPU cannot, or its default backend; names those that can, and formats that it reads.
    UsageError
        The backend that was given cannot.
    """
    kv = format_of(name).kv
    if kv is None or (_reads(kv, backend, arch) and _caches(kv, arch)):
        return
    asked = whose or f"--kv-cache-dtype {kv.spelled[0]}"
    reads = [f.kv for f in formats().values() if f.kv and _caches(f.kv, arch)]
    named = " or ".join(x.spelled[0] for x in reads if _reads(x, backend, arch))
    instead = f"--kv-cache-dtype {named}."
    if not _caches(kv, arch):
        msg = (
            f"SGLang has no kernels for a KV cache in {name} ({asked}) on {gpu} ({arch}); "
            f"give {instead}"
        )
        raise InfeasibleError(msg)
    can = ", ".join(b for b in backends if _reads(kv, b, arch))
    these = f"there these do: {can}. Give one with --attention-backend, or" if can else "give"
    at = f"on {gpu} attention backend {backend}{'' if backend_given else ', its default,'}"
    msg = f"{at} reads no KV cache in {name} ({asked}); {these} {instead}"
    raise UsageError(msg) if backend_given else InfeasibleError(msg)


def _reads(kv: KeysAndValues, backend: str, arch: str) -> bool:
    return backend not in (*kv.not_read_by, *kv.not_read_on.get(arch, ()))


def _caches(kv: KeysAndValues, arch: str) -> bool:
    return not arch or not kv.runs_on or arch in kv.runs_on
