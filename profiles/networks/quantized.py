"""How a checkpoint is quantised, module by module."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.formats import format_named, format_of, online_names
from dflash_sim.profiles.networks.layers import AttentionShape, LayerShape
from dflash_sim.profiles.precision import MODULES, Formats, called
from dflash_sim.profiles.quantization.module_names import LAYERED, ONCE, Patterns, unknown_names
from dflash_sim.profiles.quantization.projections import LATENTS, split_modules
from dflash_sim.profiles.quantization.statements import Statement, agreed, stated
from dflash_sim.profiles.quantization.untimed import INSTEAD

_KEPT = "bfloat16"
_MAX_LAYERS = 2**10


@dataclass(frozen=True)
class Quantized:
    """The quantisation that a checkpoint's own files declare.

    Parameters
    ----------
    name
        As SGLang's ``--quantization`` calls it, such as ``fp8`` or ``modelopt_fp4``.
    formats
        Modules whose weights are quantised, each with its number format.
    kv_cache
        Format of keys and values that the checkpoint asks for; None if it does not say.
    layers
        Numbers of layers that differ from ``formats``, each with the formats that differ.
    split
        Numbers of layers, and modules whose projections have several formats, in words.
    guessed
        True if the name of a checkpoint alone says all this: its files may be of another method.
    """

    name: str
    formats: Formats
    kv_cache: str | None = None
    layers: tuple[tuple[int, Formats], ...] = ()
    split: tuple[tuple[int, str, str], ...] = ()
    guessed: bool = False

    def fitted(
        self, layers: Sequence[LayerShape], hidden: int, *, mtp: bool, of: str
    ) -> tuple["Quantized", tuple[LayerShape, ...]]:
        """The same of modules that a model has, and its layers with what differs in each.

        Parameters
        ----------
        mtp
            True if the model has a layer for multi-token prediction.
        of
            Its name, for messages.

        Raises
        ------
        UsageError
            Projections of one of its modules differ in format, or no module that it has is
            quantised; names them and the formats.
        """
        every, own = dict(self.formats), dict(self.layers)
        has = [_modules(layer, hidden) for layer in layers]
        self._refuse_split(layers, has)
        stored = [
            {m: f for m, f in (every | dict(own.get(i, ()))).items() if m.partition(".")[0] in mine}
            for i, mine in enumerate(has)
        ]
        usual = {m: f for m, f in every.items() if m in ONCE and (mtp or m != "mtp")}
        for module in LAYERED:
            part = module.partition(".")[0]
            found = Counter(
                _form(x, module) for x, mine in zip(stored, has, strict=True) if part in mine
            )
            if found:
                usual[module] = found.most_common(1)[0][0]
        differing = tuple(
            replace(
                layer,
                formats=_odd(
                    {m: _form(x, m) for m in LAYERED if m.partition(".")[0] in mine}, usual
                ),
            )
            for layer, x, mine in zip(layers, stored, has, strict=True)
        )
        odd = tuple((i, x.formats) for i, x in enumerate(differing) if x.formats)
        formats = _quantised(usual)
        if every and not formats and not odd:
            what = " and ".join(sorted(set(every.values())))
            msg = (
                f"config of {of}: it is quantised with {self.name}, and the model has no "
                f"{' or '.join(every)} to be in {what}; take both from one checkpoint."
            )
            raise UsageError(msg)
        return replace(self, formats=formats, layers=odd, split=()), differing

    def _refuse_split(self, layers: Sequence[LayerShape], has: Sequence[set[str]]) -> None:
        for i, module, words in self.split:
            latent = module == LATENTS
            if i >= len(layers) or ("attention" if latent else module) not in has[i]:
                continue
            softmax = isinstance(layers[i].mixer, AttentionShape)
            if latent == softmax and module in ("attention", LATENTS):
                continue  # each of the two has projections of its own
            raise UsageError(words)


def _modules(layer: LayerShape, hidden: int) -> set[str]:
    return {w.module.partition(".")[0] for w in layer.weights(hidden=hidden)}


def _form(formats: Mapping[str, str], module: str) -> str:
    return formats.get(module) or formats.get(module.partition(".")[0], _KEPT)


def _quantised(usual: Mapping[str, str]) -> Formats:
    """The modules whose format is not the usual one of what they belong to."""
    above = {m: usual.get(m.partition(".")[0], _KEPT) if "." in m else _KEPT for m in usual}
    return tuple((m, f) for m, f in usual.items() if f != above[m])


def read(
    config: Mapping[str, Any], quant_config: Mapping[str, Any] | None = None, *, name: str
) -> Quantized | None:
    """How a checkpoint is quantised by its files; None if they say nothing of it.

    Parameters
    ----------
    config
        Its ``config.json``.
    quant_config
        The ``hf_quant_config.json`` beside it, where there is one.

    Raises
    ------
    UsageError
        The two disagree, or say what cannot be priced, in words that name the field.
    """
    text = config.get("text_config")
    inner: Mapping[str, Any] = text if isinstance(text, Mapping) else {}
    beside = quant_config if quant_config is not None else config.get("hf_quant_config")
    experts = {**inner, **config}.get("expert_dtype")
    within = agreed(
        _in_config(config, experts, name=name),
        _in_config(inner, experts, name=name, where="text_config"),
        name=name,
    )
    statement = agreed(within, _in_file(beside, name), name=name)
    if statement is None:
        return None
    count = config.get("num_hidden_layers", inner.get("num_hidden_layers"))
    depth = count if isinstance(count, int) and 0 < count <= _MAX_LAYERS else 1
    family = str(config.get("model_type") or inner.get("model_type") or "").removesuffix("_text")
    return _by_module(statement, family=family, depth=depth, name=name)


def _in_config(
    config: Mapping[str, Any], experts: object, *, name: str, where: str = ""
) -> Statement | None:
    """What the objects of a config say, which must not differ; ``where`` is the part of it.

    DeepSeek-V4 says beside the object that its ``experts`` are narrower than the rest.
    """
    more = {} if experts is None else {"expert_dtype": experts}
    found: Statement | None = None
    for key in ("quantization_config", "compression_config"):
        fields = config.get(key)
        if fields is None:
            continue
        if not isinstance(fields, Mapping):
            msg = f"config of {name}: field '{key}' is {repr(fields)[:80]}; expected an object"
            raise UsageError(msg)
        said = stated({**fields, **more} if fields else {}, name=name, file="config.json")
        if said is not None and (found is not None or where):
            said = replace(said, file=f"{where or key} of config.json")
        found = agreed(found, said, name=name)
    return found


def _in_file(raw: object, name: str) -> Statement | None:
    if raw is None:
        return None
    fields = raw.get("quantization") if isinstance(raw, Mapping) else None
    if not isinstance(fields, Mapping):
        msg = f"hf_quant_config.json of {name} has no object 'quantization'; take ModelOpt's file."
        raise UsageError(msg)
    return stated(fields, name=name, file="hf_quant_config.json")


def _by_module(statement: Statement, *, family: str, depth: int, name: str) -> Quantized:
    """The format of each module, found by asking for it by the names that it may have."""
    for field, listed in statement.lists:
        unknown = unknown_names(listed, family=family, depth=depth)
        if unknown:
            msg = (
                f"{statement.file} of {name}: {field} names {unknown[0]!r}, which is no module of "
                f"a model with {depth} layers. Correct the list."
            )
            raise UsageError(msg)
    kept = Patterns(statement.kept)
    own = [(form, Patterns(names)) for form, names in statement.own]
    lists = [kept, *(names for _, names in own)]
    # Of layers that no list tells apart one is looked at; the first has the number of an expert.
    alike: dict[tuple[object, ...], int] = {}
    first = [alike.setdefault((not i, *(x.said_of(i) for x in lists)), i) for i in range(depth)]
    found = {
        i: {m: _format(m, paths(family, i), statement, kept, own) for m, paths in LAYERED.items()}
        for i in alike.values()
    }
    by_layer = [found[i] for i in first]
    usual = {m: Counter(x[m] for x in by_layer).most_common(1)[0][0] for m in LAYERED}
    usual |= {m: _format(m, paths(depth), statement, kept, own) for m, paths in ONCE.items()}
    layers = tuple((i, odd) for i, formats in enumerate(by_layer) if (odd := _odd(formats, usual)))
    form_of = partial(_format, statement=statement, kept=kept, own=own)
    looked_at: Iterable[int] = alike.values() if statement.kept or own else ()
    mixed = {i for i, *_ in split_modules(form_of, layers=looked_at)}
    split = tuple(
        (
            i,
            module,
            f"{statement.file} of {name}: {words}; {INSTEAD} with one format in each module.",
        )
        for i, module, words in split_modules(
            form_of, layers=[i for i in range(depth) if first[i] in mixed]
        )
    )
    formats = _quantised(usual)
    if statement.kept and not formats and not layers and any(map(statement.default, LAYERED)):
        msg = (
            f"{statement.file} of {name}: {statement.name} leaves out every module, so that its "
            "weights are in bf16; ask about them without what it says of quantisation."
        )
        raise UsageError(msg)
    return Quantized(statement.name, formats, statement.kv_cache, layers, split)


def _odd(formats: Mapping[str, str], usual: Mapping[str, str]) -> Formats:
    """Formats of a layer that are not the usual; of attention either all or none."""
    parts = {m.partition(".")[0] for m, f in formats.items() if f != usual[m]}
    return tuple((m, f) for m, f in formats.items() if m.partition(".")[0] in parts)


def _format(
    module: str,
    paths: tuple[str, ...],
    statement: Statement,
    kept: Patterns,
    own: list[tuple[str, Patterns]],
) -> str:
    """The format of a module that is called by one of ``paths``."""
    if any(map(kept.match, paths)):
        return _KEPT
    for form, names in own:
        if any(map(names.match, paths)):
            return form
    return statement.default(module) or _KEPT


# Modules that SGLang's network code builds without a quantisation, whatever the flag says; drafters
# have a flag of their own.
_STAYS = ("router", "lm_head", "embed", "drafter", "vision", "other")


def everywhere(name: str) -> Quantized:
    """Every linear layer that a name of ``--quantization`` is made for, in its format."""
    form = format_named(name)
    of = format_of(form).only or [m for m in MODULES if m not in _STAYS]
    return Quantized(name, tuple((m, form) for m in of))


def online(name: str, *, model: str) -> Quantized:
    """What SGLang makes of a bf16 checkpoint that it quantises while it loads it.

    It is every layer whose code takes a ``quant_config``: also the gates of gated delta networks
    and the MTP layer (sglang 0.5.23, fp8.py, qwen3_5.py, qwen3_5_mtp.py).

    Raises
    ------
    UsageError
        The method reads weights that are quantised already; in words that say what to name.
    """
    if name in online_names():
        return everywhere(name)
    one = called(model, name)
    such = f", such as {one}" if one else " by its folder"
    ways = " or ".join(f"--quantization {x}" for x in online_names())
    msg = (
        f"--quantization {name} reads a checkpoint that is quantised already, and {model} is in "
        f"bf16. Name the quantised one with --model{such}; or give {ways}, which quantise bf16 "
        "weights as they are loaded."
    )
    raise UsageError(msg)
