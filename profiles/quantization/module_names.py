"""The names that checkpoints have for the modules of a network, and lists of such names."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from dflash_sim.profiles.errors import UsageError

# Modules of a layer, each with what the families call a part of it that tells its format.
_NAMES: dict[str, tuple[str, ...]] = {
    "attention": (
        *(f"self_attn.{x}" for x in ("q_proj", "qkv_proj", "q_b_proj", "kv_b_proj")),
        *(f"attn.{x}" for x in ("q_proj", "qkv", "wq_b")),
        "mixer.q_proj",
    ),
    "attention.o_proj": ("self_attn.o_proj", "attn.o_proj", "attn.wo_b", "mixer.o_proj"),
    "gdn": (
        *(f"linear_attn.{x}" for x in ("in_proj_qkv", "in_proj_qkvz", "in_proj_z")),
        "mixer.in_proj",
        "mamba.in_proj",
    ),
    "gdn.out_proj": tuple(f"{x}.out_proj" for x in ("linear_attn", "mixer", "mamba")),
    "gdn_gates": tuple(f"linear_attn.{x}" for x in ("in_proj_a", "in_proj_b", "in_proj_ba")),
    "mlp": (
        "mlp.gate_proj",
        "mlp.gate_up_proj",
        "feed_forward.gate_proj",
        "mixer.up_proj",
    ),
    "mlp.down_proj": tuple(f"{x}.down_proj" for x in ("mlp", "feed_forward", "mixer")),
    "experts": (
        "mlp.experts.0.gate_proj",
        "mlp.experts.gate_up_proj",
        "block_sparse_moe.experts.0.w1",
        "ffn.experts.0.w1",
        "feed_forward.experts.gate_up_proj",
        "mixer.experts.0.up_proj",
    ),
    "shared_expert": (
        *(f"mlp.{x}.gate_proj" for x in ("shared_expert", "shared_experts")),
        "block_sparse_moe.shared_experts.gate_proj",
        "ffn.shared_experts.w1",
        "feed_forward.shared_expert.gate_proj",
        "mixer.shared_experts.up_proj",
    ),
    "shared_expert.down_proj": (
        *(f"mlp.{x}.down_proj" for x in ("shared_expert", "shared_experts")),
        "block_sparse_moe.shared_experts.down_proj",
        "ffn.shared_experts.w2",
        "feed_forward.shared_expert.down_proj",
        "mixer.shared_experts.down_proj",
    ),
}
# Families that have a name for something else than the others do.
_OWN_NAMES = {("gemma4", "experts"): ("experts.0.gate_proj", "experts.gate_up_proj")}
_MTP = ("mlp.experts.0.gate_proj", "mlp.gate_proj", "ffn.experts.0.w1", "mixer.experts.0.up_proj")
_PREFIXES = r"(?:model|language_model|text_model|backbone|llm|transformer)"
_PREFIX = re.compile(rf"(?:{_PREFIXES}\.)+")
_ESCAPED_PREFIX = re.compile(rf"\^?(?:{_PREFIXES}\\?\.)+")
_LAYER = re.compile(r"\^?layers\\?\.(\d+)\\?\.")
# A pattern in which nothing but ``.*`` can be the number of a layer, so that it is alike in all.
_OF_ANY_LAYER = re.compile(
    r"re:(?:[A-Za-z_^$|()]|\\\.|\.\*|(?<=[A-Za-z_])\.(?=[A-Za-z_]))*|[A-Za-z_.*-]*"
)
# What every module's name has in it, whoever wrote the network.
_PARTS = re.compile(
    r"proj|norm|bias|embed|head|gate|router|expert|attn|attention|mlp|ffn|feed_forward|conv|dense"
    r"|vis|image|audio|patch|merger|mtp|indexer|moe|mixer|linear|adapter|fc|qkv|w[123oqkv]|rotary"
    r"|scale|sinks|layers?|blocks?|model|encoder|wo_|wq_|wkv|A_log|dt_bias|engram|compressor|hc_"
)
_EXTRA_LAYERS = 8  # of multi-token prediction, which some number after the last
_LONGEST = 400


def _spelled(module: str) -> Callable[[str, int], tuple[str, ...]]:
    def paths(family: str, layer: int) -> tuple[str, ...]:
        names = _OWN_NAMES.get((family, module), _NAMES[module])
        return tuple(f"layers.{layer}.{name}" for name in names)

    return paths


# ``LAYERED[module](family, layer)`` and ``ONCE[module](depth)``: what the module may be called.
LAYERED = {module: _spelled(module) for module in _NAMES}
ONCE: dict[str, Callable[[int], tuple[str, ...]]] = {
    "lm_head": lambda depth: ("lm_head", "head"),
    "mtp": lambda depth: (
        *(f"mtp.layers.0.{name}" for name in _MTP),
        *(f"layers.{depth}.{name}" for name in _MTP),
        "mtp.0.ffn.experts.0.w1",
    ),
}


class Patterns:
    """Names, globs and regular expressions (after ``re:``) that a list of modules consists of.

    A name stands for everything below it too, wherever it is: ``mlp`` for the MLP of each layer.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._plain: set[str] = set()
        self._everywhere: list[re.Pattern[str]] = []
        self._at: dict[int, list[re.Pattern[str]]] = {}
        self._said: dict[str, set[str]] = {}  # by the number of a layer, with a # for it
        self._counts = False
        for name in names:
            if not _is_pattern(name):
                self._plain.add(_PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name)
                words = name.split(".")
                for number in filter(str.isdigit, words):
                    said = ".".join("#" if word == number else word for word in words)
                    self._said.setdefault(number, set()).add(said)
                continue
            text = _as_regex(name)
            layer = _LAYER.match(_ESCAPED_PREFIX.sub("", text.removeprefix(_ANYWHERE), count=1))
            where = self._at.setdefault(int(layer[1]), []) if layer else self._everywhere
            where.append(_compiled(text, name))
            bare = re.sub(r"\d+", "", name, count=1) if layer else name
            alike = _OF_ANY_LAYER.fullmatch(bare) is not None
            if layer:
                self._said.setdefault(str(int(layer[1])), set()).add(bare if alike else name)
            else:
                self._counts |= not alike

    def said_of(self, layer: int) -> frozenset[str]:
        """What tells this layer from others: of two that have the same, the same modules match."""
        number = str(layer)
        return frozenset({number} if self._counts else self._said.get(number, ()))

    def match(self, path: str) -> bool:
        """Return True if one of them is ``path`` or a module that it is in."""
        return not self._plain.isdisjoint(_runs(path)) or any(
            p.match(path) or p.match(f"model.{path}") for p in self._for(path)
        )

    def _for(self, path: str) -> Iterator[re.Pattern[str]]:
        yield from self._everywhere
        layer = _LAYER.match(path)
        if layer and int(layer[1]) in self._at:
            yield from self._at[int(layer[1])]


_ANYWHERE = r"(?:.*\.)?"


def _is_pattern(name: str) -> bool:
    return name.startswith("re:") or "*" in name


def _as_regex(name: str) -> str:
    if name.startswith("re:"):
        bare = name.removeprefix("re:")
        return _ESCAPED_PREFIX.sub("", bare, count=1) if _ESCAPED_PREFIX.match(bare) else bare
    bare = _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name
    where = "" if bare.startswith("layers.") else _ANYWHERE
    return where + re.escape(bare).replace(r"\*", ".*") + r"(?:\..*)?$"


def _compiled(text: str, name: str) -> re.Pattern[str]:
    try:
        if len(text) > _LONGEST:
            msg = f"{len(text)} characters"
            raise re.error(msg)
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        msg = f"{name[:80]!r} is no pattern of module names: {error}. Correct the list."
        raise UsageError(msg) from error


@lru_cache(maxsize=1 << 13)  # the paths of a deep network; every list of modules asks for them
def _runs(path: str) -> tuple[str, ...]:
    """Every run of whole words of a dotted path; those of a layer begin with its number."""
    words = path.split(".")
    return tuple(
        ".".join(words[first:last])
        for first in range(len(words))
        if not first or words[first] != "layers"  # of the MTP module, which has its own count
        for last in range(first + 1, len(words) + 1)
    )


def unknown_names(names: Sequence[str], *, family: str, depth: int) -> list[str]:
    """Those of ``names`` that no module of a network of ``depth`` layers can have."""
    paths: list[str] | None = None
    odd = []
    for name in names:
        if not _is_pattern(name):
            if not _plausible(name, depth):
                odd.append(name)
        elif not _PARTS.search(_words(name)):
            if paths is None:
                paths = _all_paths(family, depth)
            if not any(map(Patterns([name]).match, paths)):
                odd.append(name)
        elif not _plausible_layer(_as_regex(name).removeprefix(_ANYWHERE), depth):
            odd.append(name)
    return odd


def _words(pattern: str) -> str:
    """A pattern without the words that say only where."""
    return re.sub(rf"{_PREFIXES}\b|layers|re:", "", pattern)


def _plausible(name: str, depth: int) -> bool:
    bare = _PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name
    words = [word for word in bare.split(".") if word and not word.isdigit()]
    return bool(words) and all(map(_PARTS.search, words)) and _plausible_layer(f"{bare}.", depth)


def _plausible_layer(bare: str, depth: int) -> bool:
    layer = _LAYER.match(bare)
    return layer is None or int(layer[1]) < depth + _EXTRA_LAYERS


def _all_paths(family: str, depth: int) -> list[str]:
    layered = [x for i in range(depth + 1) for paths in LAYERED.values() for x in paths(family, i)]
    return layered + [x for paths in ONCE.values() for x in paths(depth)]
