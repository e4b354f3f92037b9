"""Published throughput of sampled answers: rows of ``serving.csv`` that state a temperature."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dflash_sim.profiles.find import read_csv, roots
from dflash_sim.profiles.sheets import PublishedPoint
from dflash_sim.profiles.typed_table import read_row

_CUTS = {
    "top_p": re.compile(r"\btop[-_ ]?p(?: of|=| =)? ?(0?\.\d+)\b", re.IGNORECASE),
    "top_k": re.compile(r"\btop[-_ ]?k(?: of|=| =)? ?(\d+) ?(?=[;,)]|$|tokens)", re.IGNORECASE),
}
_NEEDED = ("dataset", "conc", "max_new_tokens", "output_tok_s")


@dataclass(frozen=True)
class SampledPoint(PublishedPoint):
    """A published throughput of answers that were drawn at a temperature."""

    temperature: float
    top_p: float
    top_k: int | None
    attention_backend: str
    build: str


def load_sampled() -> tuple[SampledPoint, ...]:
    """Return the rows of data sets, of weights in bf16, that were drawn; the user's first."""
    return tuple(_rows())


def _rows() -> Iterator[SampledPoint]:
    for root in roots():
        file = root / "published/serving.csv"
        sources = {row.get("source_id"): row for row in read_csv(root / "published/sources.csv")}
        for number, row in enumerate(read_csv(file), start=2):
            drawn = row.get("temperature") not in (None, "", "0")
            if not drawn or row.get("quantization") or not all(row.get(n) for n in _NEEDED):
                continue
            source = sources.get(row.get("source_id"), {})
            limits = {name: str(x) for name, x in cuts(source.get("harness", "")).items()}
            cells = {
                **row,
                "url": source.get("url", ""),
                "top_p": limits.get("top_p", "1"),
                "top_k": limits.get("top_k", ""),
                "fitted_what": "",
                "linear_attn_decode_backend": "",
            }
            yield read_row(SampledPoint, cells, f"{file}, line {number}")


def cuts(text: str) -> dict[str, Any]:
    """Thresholds of sampling that ``text`` states; they act at a temperature alone.

    Examples
    --------
    >>> cuts("min(128 c, 1024) prompts; temperature 1, top-p 0.95, top-k 20, rejection sampling")
    {'top_p': 0.95, 'top_k': 20}
    """
    found = {name: told[1] for name, way in _CUTS.items() if (told := way.search(text))}
    return {n: int(told) if n == "top_k" else float(told) for n, told in found.items()}
