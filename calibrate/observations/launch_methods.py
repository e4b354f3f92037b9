"""``--speculative-algorithm`` of a launch -> the method that is simulated."""

from collections.abc import Mapping

from dflash_sim.profiles.errors import DflashSimError, UsageError, unknown
from dflash_sim.profiles.load import load_model
from dflash_sim.simulator.cost.cycle import Method
from dflash_sim.simulator.cost.methods import PLAIN, algorithms, for_any_target

# Algorithms of SGLang's that are not simulated, and how each drafts.
_NOT_SIMULATED = {
    "NGRAM": "it drafts what followed the same words before",
    "SUFFIX": "it drafts what followed the same words before",
    "LOOKAHEAD": "it drafts what followed the same words before",
    "STANDALONE": "it drafts with a small model of its own",
    "FROZEN_KV_MTP": "its draft layers read the target's own keys and values",
}
_CALLED = {"MTP": "NEXTN", "EAGLE2": "EAGLE", "EAGLE-2": "EAGLE", "EAGLE-3": "EAGLE3"}
_BY_CHECKPOINT = ("DFLASH2", "DOMINO")  # the drafter's files say which, behind DFLASH


def method_of_launch(algorithm: str | None, model: str | None, head: str | None) -> Method:
    """The method that an algorithm means for a target.

    Parameters
    ----------
    algorithm
        As typed; None for plain decoding.
    head
        The drafting network that the launch names.

    Raises
    ------
    UsageError
        It is not simulated, or the target has no layer that it needs.
    """
    if algorithm is None:
        return PLAIN
    known = algorithms()
    spelt = algorithm.upper().replace("-", "").replace("_", "")
    method = known.get("DFLASH" if spelt in _BY_CHECKPOINT else spelt)
    if method is None:
        raise _no_method(algorithm, known)
    if method.network == "mtp-layer" and model is not None and not _has_mtp(model):
        raise _no_layer(algorithm, model, head)
    return method


def _no_method(algorithm: str, known: Mapping[str, Method]) -> UsageError:
    hint = "Leave it out to ask for plain decoding."
    why = _NOT_SIMULATED.get(algorithm.upper())
    if (called := _CALLED.get(algorithm.upper())) is not None:
        hint = f"SGLang calls it {called}. {hint}"
    if why is None:
        return unknown("--speculative-algorithm", algorithm, known, hint)
    msg = (
        f"--from-launch: --speculative-algorithm {algorithm} is not simulated: {why}. "
        f"These are: {', '.join(sorted(known))}. {hint}"
    )
    return UsageError(msg)


def _no_layer(algorithm: str, model: str, head: str | None) -> UsageError:
    others = ", ".join(sorted({m.algorithm for m in for_any_target() if m.algorithm}))
    needs = f"needs a native MTP layer, which {model} lacks"
    if head is not None:
        needs = (
            f"with {head} asks for a head of EAGLE-2, which is not simulated, and {model} has no "
            "native MTP layer"
        )
    msg = f"--from-launch: --speculative-algorithm {algorithm} {needs}; allowed for it: {others}."
    return UsageError(msg)


def _has_mtp(model: str) -> bool:
    try:
        return load_model(model).mtp_layer is not None
    except DflashSimError:
        return True  # the scenario reports the model in its own words
