"""Projections that are priced together, and whether a checkpoint has them in one format.

SGLang loads them as one module, and raises where a checkpoint has them in several formats.
"""

from collections.abc import Callable, Iterable, Iterator

from dflash_sim.profiles.formats import PLAIN

# Projections that are one product, or two that are timed as one, by where they are: each with its
# names. Those behind an activation or a rule have formats of their own.
_INTO = (("gate_proj", "gate_up_proj"), ("up_proj", "gate_up_proj"))
_GATED = (*_INTO, ("down_proj",))
_PLAIN = (("up_proj",), ("down_proj",))
_NUMBERED = (("w1",), ("w3",), ("w2",))
_QKV = tuple((f"{x}_proj",) for x in "qkv")
LATENTS = "latents"  # the two that go down to them; the other projections stand alone
_TOGETHER: dict[str, dict[str, tuple[tuple[str, ...], ...]]] = {
    "attention": {"self_attn": _QKV, "mixer": _QKV},
    LATENTS: {"self_attn": (("q_a_proj",), ("kv_a_proj_with_mqa",))},
    "gdn": {
        "linear_attn": (
            ("in_proj_qkv", "in_proj_qkvz"),
            ("in_proj_z", "in_proj_qkvz"),
        ),
    },
    "mlp": {"mlp": _INTO, "feed_forward": _INTO},
    "experts": {
        "mlp.experts.0": _GATED,
        "mlp.experts": _GATED,
        "experts.0": _GATED,
        "experts": _GATED,
        "block_sparse_moe.experts.0": _NUMBERED,
        "ffn.experts.0": _NUMBERED,
        "feed_forward.experts.0": _GATED,
        "feed_forward.experts": _GATED,
        "mixer.experts.0": _PLAIN,
    },
    "shared_expert": {
        "mlp.shared_expert": _INTO,
        "mlp.shared_experts": _INTO,
        "block_sparse_moe.shared_experts": _INTO,
        "ffn.shared_experts": _NUMBERED[:2],
        "feed_forward.shared_expert": _INTO,
    },
}


def split_modules(
    form_of: Callable[[str, tuple[str, ...]], str], *, layers: Iterable[int]
) -> Iterator[tuple[int, str, str]]:
    """Layers and modules of which some projections have another format, and which those are.

    Parameters
    ----------
    form_of
        The format of a module that is called by one of several paths.
    layers
        Their numbers.
    """
    for layer in layers:
        for module, projections in _together(layer):
            forms = [form_of(module, paths) for paths in projections]
            other = next((n for n, form in enumerate(forms) if form != forms[0]), None)
            if other is None:
                continue
            (first, *_), (second, *_) = projections[0], projections[other]
            words = (
                f"{second} is {_word(forms[other])} beside {_word(forms[0])} "
                f"{first.rpartition('.')[2]}, which SGLang loads as one module of one format"
            )
            yield layer, module, words


def _together(layer: int) -> Iterator[tuple[str, tuple[tuple[str, ...], ...]]]:
    for module, places in _TOGETHER.items():
        for place, projections in places.items():
            at = f"layers.{layer}.{place}"
            yield module, tuple(tuple(f"{at}.{x}" for x in names) for names in projections)


def _word(form: str) -> str:
    return "bf16" if form == PLAIN else form
