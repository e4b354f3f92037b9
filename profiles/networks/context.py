"""How long a request of a model may be, prompt and answer together."""

from collections.abc import Mapping
from typing import Any

# Scalings whose factor max_position_embeddings has in it already.
_INCLUDED = {"llama3", "default", "proportional", "mrope"}


def context_of(config: Mapping[str, Any]) -> int | None:
    """Context length that a config states [token], as a server takes it; None if it has none.

    A scaled rotary embedding makes it longer, unless the config names the original length: then
    ``max_position_embeddings`` is the scaled one.
    """
    length = config.get("max_position_embeddings")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, Mapping) or "original_max_position_embeddings" in scaling:
        return length
    kind = scaling.get("rope_type", scaling.get("type"))
    factor = scaling.get("factor", 1.0)
    if not isinstance(kind, str) or kind in _INCLUDED:
        return length
    if not isinstance(factor, int | float) or not 1 <= factor <= 1e4:
        return length
    return int(length * factor)
