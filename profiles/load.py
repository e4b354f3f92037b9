"""Read a sheet by name. Where names are looked up is in :mod:`dflash_sim.profiles.find`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dflash_sim.profiles.checkpoints import Checkpoint, find_checkpoint
from dflash_sim.profiles.errors import DflashSimError, MissingProfileError, UsageError
from dflash_sim.profiles.find import (
    FOLDERS,
    Dirs,
    aliases,
    find_in_pair,
    find_sheet,
    gpu_key,
    names,
    parsed_gpu,
    read_csv,
    read_sheet,
    require_sheet,
    roots,
    sheet_names,
    sheets,
    stands_for,
)
from dflash_sim.profiles.networks.drafter_shapes import BLOCK_KINDS, KIND_TITLES
from dflash_sim.profiles.networks.hf_config import (
    DrafterShape,
    Eagle3Shape,
    ModelShape,
    parse_drafter,
    parse_eagle3,
    parse_model,
)
from dflash_sim.profiles.one_look import made
from dflash_sim.profiles.other_drafters import none_known, refuse_other_kind
from dflash_sim.profiles.precision import quantised_name
from dflash_sim.profiles.quantity_sheet import QuantitySheet
from dflash_sim.profiles.sheets import (
    AcceptancePoint,
    Dataset,
    Device,
    Node,
    PriceRange,
    PublishedPoint,
    SurvivalPoint,
)
from dflash_sim.profiles.typed_table import read_row
from dflash_sim.profiles.units import GIGA
from dflash_sim.profiles.ways_in import named_path

__all__ = [
    "base_model", "default_drafter", "default_node", "find_drafter", "find_network", "find_sheet",
    "load_acceptance", "load_dataset", "load_device", "load_drafter", "load_eagle3", "load_model",
    "load_node", "load_published", "load_survival", "names", "sheet_names",
]  # fmt: skip

_LONGEST_CONTEXT = 2**31
_TOLD_OF = ("name", "source", "caution", "context", "base", "vision")  # not of the network
_SIZE_TOLERANCE = 0.12  # decimal and binary gigabytes, nominal and usable memory
_Row = TypeVar("_Row", AcceptancePoint, SurvivalPoint, PublishedPoint)


def load_device(name: str, profiles_dirs: Dirs = ()) -> Device:
    """The GPU called ``name``, such as ``b200``."""
    return made(("gpu", name, tuple(profiles_dirs)), lambda: _device(name, profiles_dirs))


def _device(name: str, profiles_dirs: Dirs) -> Device:
    sheet = QuantitySheet(require_sheet("gpus", name, profiles_dirs))
    _check_size(name, sheet)
    return Device(
        name=sheet.path.stem,
        title=sheet.text("title"),
        vendor=sheet.text("vendor"),
        aliases=sheet.words("aliases"),
        arch=sheet.text("arch") if "arch" in sheet.raw else sheet.text("vendor").lower(),
        tables_from=sheet.text("tables_from") if "tables_from" in sheet.raw else None,
        bf16_flop_s=sheet["bf16"],
        fp8_flop_s=sheet.get("fp8"),
        fp4_flop_s=sheet.get("fp4"),
        mem_bytes=sheet["mem"],
        mem_bw_byte_s=sheet["mem_bw"],
        mem_bw_eff=sheet["mem_bw_eff"],
        link_byte_s=sheet["link"],
        sm_count=sheet.count("sm_count"),
        tdp_w=sheet["tdp"],
        l2_bytes=sheet.get("l2"),
        price=PriceRange(
            low=sheet.get("price.low"),
            typical=sheet.get("price.typical"),
            high=sheet.get("price.high"),
            source=next((q.source for k, q in sheet.quantities.items() if k[:6] == "price."), ""),
        ),
        quantities=sheet.quantities,
        int8_flop_s=sheet.get("int8"),
        host=sheet.text("host") if "host" in sheet.raw else "",
    )


def _check_size(name: str, sheet: QuantitySheet) -> None:
    """Refuse a name that states another size of memory: it is another GPU of the same make."""
    if gpu_key(name) in {gpu_key(known) for known in (sheet.path.stem, *aliases(sheet.path))}:
        return
    held = sheet["mem"] / GIGA
    for size in parsed_gpu(name).sizes_gb:
        if not size or abs(held / size - 1) > _SIZE_TOLERANCE:
            other = f"{sheet.path.stem.partition('_')[0]}_{size:g}gb"
            known = find_sheet("devices", other, ".toml") is not None
            near = f"The nearest is {other}" if known else "There is none of that size"
            msg = (
                f"'{name}' is not the {sheet.path.stem} sheet, which has {held:.0f} GB. {near}; "
                "or write devices/<name>.toml."
            )
            raise UsageError(msg)


def load_node(name: str, profiles_dirs: Dirs = ()) -> Node:
    """The node called ``name``, such as ``b200x8``."""
    sheet = QuantitySheet(require_sheet("nodes", name, profiles_dirs))
    return Node(
        name=sheet.path.stem,
        device=sheet.text("device"),
        num_gpus=sheet.count("num_gpus"),
        quantities=sheet.quantities,
    )


def default_node(device: str, profiles_dirs: Dirs = ()) -> Node:
    """The node a GPU usually comes in: the first sheet that names it."""
    wanted = require_sheet("gpus", device, profiles_dirs).stem
    for path in sheets("nodes", ".toml", profiles_dirs):
        if read_sheet(path).get("device") == wanted:
            return load_node(path.stem, profiles_dirs)
    have = ", ".join(names("nodes", profiles_dirs))
    msg = f"no node sheet for GPU '{wanted}'; have: {have}. Write nodes/{wanted}x8.toml"
    raise MissingProfileError(msg)


def load_model(name: str, profiles_dirs: Dirs = ()) -> ModelShape:
    """A target model by name, Hugging Face id, or path to a ``config.json`` or its folder.

    A quantised checkpoint of a model that has a sheet is known by its own name too.
    """
    return made(("model", name, tuple(profiles_dirs)), lambda: _model(name, profiles_dirs))


def _model(name: str, profiles_dirs: Dirs) -> ModelShape:
    held = _checkpoint(name, profiles_dirs)
    if held is None:
        path, label = find_network("models", name, profiles_dirs)
        model = _with_context(_parse(path, label, parse_model), name, read_sheet(path))
        shipped = label == path.stem and _as_path(name) is None
        return model.saying(stands_for(name.rstrip("/"), label) if shipped else None)
    config = read_sheet(require_sheet("models", held.base, profiles_dirs))
    text = config.get("text_config")
    if isinstance(text, Mapping):  # which may say how the base is quantised
        config["text_config"] = {k: v for k, v in text.items() if k != "quantization_config"}
    config["quantization_config"] = dict(held.quantization)
    model = parse_model(config, name=held.name, source=held.source)
    model = _with_context(model, held.name, config)
    model = model.saying(held.assumed).saying(stands_for(held.name, held.base))
    context = held.context or model.context
    own = model.quantized and replace(model.quantized, guessed=held.assumed is not None)
    return replace(model, base=held.base, context=context, quantized=own)


def _with_context(model: ModelShape, name: str, sheet: Mapping[str, Any]) -> ModelShape:
    """The model with the context of the release that is asked for, such as ``2507``.

    Names of one network differ in it; ``_contexts`` has it by a part of the name [token].
    """
    contexts = sheet.get("_contexts", {})
    if not isinstance(contexts, Mapping) or any(
        type(n) is not int or not 0 < n <= _LONGEST_CONTEXT for n in contexts.values()
    ):
        msg = (
            f"{model.name}: _contexts is {contexts!r}; give tokens by a part of the name, such as "
            '{"2507": 262144}.'
        )
        raise UsageError(msg)
    own = [n for part, n in contexts.items() if part in name.lower()]
    return replace(model, context=own[0]) if own else model


def _checkpoint(name: str, profiles_dirs: Dirs) -> Checkpoint | None:
    """The quantised checkpoint called ``name``, where no sheet, pair or path is."""
    if find_in_pair("models", name, profiles_dirs) or _as_path(name):
        return None
    if find_sheet("models", name, ".json", profiles_dirs):
        return None
    return find_checkpoint(name, profiles_dirs)


def base_model(name: str, profiles_dirs: Dirs = ()) -> str:
    """The model that a quantised checkpoint was made of; of any other the name itself."""
    held = _checkpoint(name, profiles_dirs)
    return held.base if held else name


def load_drafter(name: str, profiles_dirs: Dirs = ()) -> DrafterShape:
    """A drafter of blocks, DFlash or one that descends from it, by name, id or path."""
    return _network("drafters", name, profiles_dirs, parse_drafter)


def default_drafter(
    model: str, profiles_dirs: Dirs = (), kinds: Sequence[str] = BLOCK_KINDS
) -> DrafterShape:
    """The drafter made for ``model``: of the first of these kinds that there is for it.

    Raises
    ------
    MissingProfileError
        None of these kinds is known for it.
    """
    if find_in_pair("drafters", model, profiles_dirs) is not None:
        return _parse(*find_drafter("drafters", model, profiles_dirs), parse_drafter)
    made = [
        _parse(path, path.stem, parse_drafter)
        for path in _all_made_for("drafters", base_model(model, profiles_dirs), profiles_dirs)
    ]
    for kind in kinds:
        if found := next((drafter for drafter in made if drafter.kind == kind), None):
            return found
    kind = "drafters"
    raise _none_known(kind, model, profiles_dirs, kinds[0])


def load_eagle3(model: str, profiles_dirs: Dirs = ()) -> Eagle3Shape:
    """The EAGLE-3 head made for ``model``; or the head itself, by name or path."""
    model = base_model(model, profiles_dirs)
    paired = find_in_pair("models", model, profiles_dirs)
    if paired is None and find_sheet("models", model, ".json", profiles_dirs) is None:
        return _network("eagle3", model, profiles_dirs, parse_eagle3)
    return _parse(*find_drafter("eagle3", model, profiles_dirs), parse_eagle3)


def load_dataset(name: str, profiles_dirs: Dirs = ()) -> Dataset:
    """A workload, such as ``humaneval``."""
    sheet = QuantitySheet(require_sheet("datasets", name, profiles_dirs))
    turns = sheet.count("turns")
    return Dataset(
        name=sheet.path.stem,
        title=sheet.text("title"),
        aliases=sheet.words("aliases"),
        num_prompts=sheet.count("num_prompts"),
        turns=turns,
        isl=tuple(sheet.lengths(f"isl_{turn}") for turn in range(1, turns + 1)),
        osl={True: sheet.lengths("osl_thinking"), False: sheet.lengths("osl_plain")},
        max_new_tokens=sheet.count("max_new_tokens"),
        min_turns=sheet.count("min_turns"),
        radix_cache=bool(sheet.raw.get("radix_cache", True)),
        quantities=sheet.quantities,
    )


def load_acceptance(profiles_dirs: Dirs = ()) -> tuple[AcceptancePoint, ...]:
    """Published mean accept lengths, the user's rows first."""
    return _rows(AcceptancePoint, "acceptance/accept_length.csv", profiles_dirs)


def load_survival(profiles_dirs: Dirs = ()) -> tuple[SurvivalPoint, ...]:
    """Published acceptance by draft position, the user's rows first."""
    return _rows(SurvivalPoint, "acceptance/positions.csv", profiles_dirs)


def load_published(profiles_dirs: Dirs = ()) -> tuple[PublishedPoint, ...]:
    """Published throughput with complete conditions, the user's rows first."""
    return _rows(PublishedPoint, "published/throughput.csv", profiles_dirs)


_Shape = TypeVar("_Shape", ModelShape, DrafterShape, Eagle3Shape)


def find_network(kind: str, name: str, profiles_dirs: Dirs = ()) -> tuple[Path, str]:
    """The config of a network and what to call it: a sheet, a trained pair's, or a path's.

    ``kind`` is ``models``, ``drafters`` or ``eagle3``.
    """
    paired = find_in_pair(kind, name, profiles_dirs)
    if paired is not None:
        label = name.lower() if kind == "models" else f"{name.lower()}-{paired.parent.name}"
        return paired, label
    sheet = find_sheet(FOLDERS[kind][0], name, FOLDERS[kind][1], profiles_dirs)
    if kind != "models" and (sheet is None or "/" in name):
        refuse_other_kind(name)  # which may be called as another's that has a sheet
    path = sheet or _as_path(name)
    if path is None:
        _refuse_other_method(kind, name, profiles_dirs)
        path = require_sheet(kind, name, profiles_dirs)
    return path, path.stem if path.name != "config.json" else path.resolve().parent.name


def _refuse_other_method(kind: str, name: str, profiles_dirs: Dirs) -> None:
    """Refuse a drafter that is known, and drafts in another way than the method that is asked."""
    other = {"drafters": "eagle3", "eagle3": "drafters"}.get(kind, "")
    folder, suffix = FOLDERS.get(other, ("", ""))
    found = find_sheet(folder, name, suffix, profiles_dirs) if other else None
    if found is None:
        return
    drafts = found.stem.rpartition("-")[2]
    what = f"a {KIND_TITLES[drafts]} drafter" if drafts in KIND_TITLES else "an EAGLE-3 head"
    steps = "" if drafts in KIND_TITLES else " --steps 3"
    msg = (
        f"drafter {found.stem} is {what}, and the method asked for runs another kind; give "
        f"--method {drafts}{steps}, or another --draft-model."
    )
    raise UsageError(msg)


def _network(kind: str, name: str, profiles_dirs: Dirs, parse: Callable[..., _Shape]) -> _Shape:
    path, label = find_network(kind, name, profiles_dirs)
    return _parse(path, label, parse)


def _parse(path: Path, label: str, parse: Callable[..., _Shape]) -> _Shape:
    config = read_sheet(path)
    beside = path.with_name("hf_quant_config.json")  # where ModelOpt says what it quantized
    if beside.is_file():
        config["hf_quant_config"] = read_sheet(beside)
    _check_name(path, label, config)
    return parse(config, name=label, source=str(config.get("_source", path)))


def _check_name(path: Path, label: str, config: Mapping[str, Any]) -> None:
    """Refuse a config that is silent about what its name says: its weights are quantised."""
    said = quantised_name(label)
    told = ("quantization_config", "compression_config", "hf_quant_config")
    inner = config.get("text_config")
    inner = inner if isinstance(inner, Mapping) else {}
    if said is None or any(config.get(key) or inner.get(key) for key in told):
        return
    msg = (
        f"{path} is named {said[0]}, and neither it nor an hf_quant_config.json beside it says how "
        "it is quantised. Take the config.json of the quantised checkpoint, or rename the file to "
        "ask for the model in bf16."
    )
    raise UsageError(msg)


def _as_path(name: str) -> Path | None:
    """The config file that ``name`` points to, if it is a path rather than a name."""
    path = named_path(name)
    explicit = name.endswith(".json") or name.startswith((".", "/", "~"))
    reason, there = "no such file", False
    try:
        if path.is_dir():
            path, explicit = path / "config.json", True
        there = path.is_file()
    except OSError as error:  # longer than a path may be, or in a folder that is not ours to see
        reason = error.strerror or reason
    if explicit and not there:
        msg = (
            f"cannot read {path}: {reason}; give a Hugging Face config.json, its folder, "
            "or a name from: dflash-sim list models."
        )
        raise UsageError(msg)
    return path if there else None


def find_drafter(kind: str, model: str, profiles_dirs: Dirs = ()) -> tuple[Path, str]:
    """The config of the drafter made for ``model`` and its name: its pair's, or the first sheet.

    ``kind`` is ``drafters`` or ``eagle3``.
    """
    if find_in_pair(kind, model, profiles_dirs) is not None:
        return find_network(kind, model, profiles_dirs)
    model = base_model(model, profiles_dirs)
    for path in _all_made_for(kind, model, profiles_dirs):
        return path, path.stem
    raise _none_known(kind, model, profiles_dirs, BLOCK_KINDS[0])


def _all_made_for(kind: str, model: str, profiles_dirs: Dirs) -> Iterator[Path]:
    """Sheets of ``kind`` whose target is ``model``, in the order of their names."""
    known_as = {model.lower()}
    if _as_path(model):
        known_as |= set(_same_networks(kind, model, profiles_dirs))
    else:
        target = require_sheet("models", model, profiles_dirs)
        known_as = {target.stem.lower(), *aliases(target)}
    for path in sheets(*FOLDERS[kind], profiles_dirs):
        if str(read_sheet(path).get("target", "")).lower() in known_as:
            yield path


def _same_networks(kind: str, model: str, profiles_dirs: Dirs) -> Iterator[str]:
    """Targets of drafters whose network is that of a config: another copy of the same model."""
    asked = load_model(model, profiles_dirs)
    told = {name: getattr(asked, name) for name in _TOLD_OF}
    sheets_of_kind = sheets(*FOLDERS[kind], profiles_dirs)
    for target in (str(read_sheet(path).get("target", "")) for path in sheets_of_kind):
        with suppress(DflashSimError):
            if replace(load_model(target, profiles_dirs), **told) == asked:
                yield target.lower()


def _none_known(kind: str, model: str, profiles_dirs: Dirs, drafts: str) -> MissingProfileError:
    return none_known(
        model,
        KIND_TITLES[drafts] if kind == "drafters" else None,
        own_layer=load_model(model, profiles_dirs).mtp_layers > 0,
        head=next(_all_made_for("eagle3", base_model(model, profiles_dirs), profiles_dirs), None),
    )


def _rows(record: type[_Row], file: str, profiles_dirs: Dirs) -> tuple[_Row, ...]:
    """Rows of a table as ``record``, from every folder that has one; urls by ``source_id``."""

    def read() -> Iterator[_Row]:
        for root in roots(profiles_dirs):
            sources = read_csv(root / "published/sources.csv")
            urls = {row.get("source_id"): row.get("url", "") for row in sources}
            for number, row in enumerate(read_csv(root / file), start=2):
                row.setdefault("url", urls.get(row.get("source_id"), ""))
                yield read_row(record, row, f"{root / file}, line {number}")

    return made((file, tuple(profiles_dirs)), lambda: tuple(read()))
