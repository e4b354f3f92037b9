"""Published closed-loop throughput on one GH200: forced answers of 512 tokens, up to c=128.

Accept lengths are given (those of the same runs at c=32), throughput is predicted; the rows of
``VP_GH200_TUNING`` differ in server flags, which only their notes name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dflash_sim.profiles.load import load_published
from dflash_sim.profiles.sheets import PublishedPoint
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

SOURCE = "VP_GH200_TUNING"
# Its common flags: --mem-fraction-static .85 --max-running-requests 128; cap64 in a note is 64.
_MEM_FRACTION, _RUNNING, _FEWER_RUNNING = 0.85, 128, 64
BY_SERVER = "GH200 closed loop"
_LEAST_REQUESTS, _REQUESTS_PER_CLIENT = 32, 4


@dataclass(frozen=True)
class Served:
    """A published row and its prediction [token/s, ms]."""

    row: PublishedPoint
    predicted_tok_s: float
    ttft_ms: float
    running: int

    @property
    def error(self) -> float:
        """Relative error; positive is too fast [1]."""
        return self.predicted_tok_s / self.row.output_tok_s - 1

    @property
    def server(self) -> str:
        """What its flags make of the server: attention, and states that are not written."""
        attention = "Triton" if "Triton" in self.row.notes else "FlashInfer"
        return f"{attention}, replayed states" if "replayssm" in self.row.notes else attention


def rows() -> list[PublishedPoint]:
    """The published rows, in file order."""
    return [p for p in load_published() if p.source_id == SOURCE]


def scenario_of(row: PublishedPoint, *, runs: int = 1) -> Scenario:
    """The question whose answer the row is."""
    fields: dict[str, object] = {
        "gpu": row.gpu,
        "model": row.model,
        "tp": row.tp,
        "method": row.method,
        "conc": row.conc,
        "dataset": row.dataset,
        "thinking": bool(row.thinking),
        "max_new_tokens": row.max_new_tokens,
        "num_prompts": max(_LEAST_REQUESTS, _REQUESTS_PER_CLIENT * row.conc),
        "radix_cache": "radix on" in row.notes,
        "attention_backend": "triton" if "Triton" in row.notes else "flashinfer",
        "max_running_requests": _FEWER_RUNNING if "cap64" in row.notes else _RUNNING,
        "mem_fraction_static": _MEM_FRACTION,
        "runs": runs,
        "calibration": "none",
    }
    if row.method != "none":
        fields["block"] = row.block
    return Scenario.parse(**fields)


def served(row: PublishedPoint, *, runs: int = 1) -> Served:
    """Predict one row."""
    result = predict(scenario_of(row, runs=runs), with_baseline=False, with_interval=False)
    tok_s, ttft = result.values["output_throughput"], result.values["mean_ttft_ms"]
    return Served(row, tok_s, ttft, result.setup.limits.max_running_requests)


def by_server(outcomes: Iterable[Served]) -> Table:
    """Errors by method, server and concurrency."""
    groups: dict[tuple[str, str, int], list[Served]] = {}
    for o in outcomes:
        groups.setdefault((o.row.method, o.server, o.row.conc), []).append(o)
    lines = []
    for (method, server, conc), group in sorted(groups.items()):
        errors = [o.error for o in group]
        at_once = sorted({str(min(o.running, conc)) for o in group}, key=int)
        lines.append(
            (
                method,
                server,
                str(conc),
                " to ".join(dict.fromkeys((at_once[0], at_once[-1]))),
                str(len(group)),
                percent(float(np.mean(np.abs(errors)))),
                signed(float(np.mean(errors))),
            )
        )
    head = ("method", "server", "c", "run at once", "rows", "MAPE", "bias")
    return Table("GH200 closed loop", head, tuple(lines))


def every_row(outcomes: Iterable[Served]) -> Table:
    """Each row, in file order."""
    lines = [
        (
            o.row.method,
            str(o.row.block),
            str(o.row.conc),
            o.row.notes,
            f"{o.row.output_tok_s:.0f}",
            f"{o.predicted_tok_s:.0f}",
            signed(o.error),
        )
        for o in outcomes
    ]
    head = ("method", "block", "c", "server", "published", "predicted", "error")
    return Table("GH200 closed loop, every row", head, tuple(lines))


def section(errors: Table) -> str:
    """The closed loop in the accuracy page, as Markdown; ``errors`` is :func:`by_server`'s."""
    return "\n\n".join(["### GH200, closed loop", _INTRO, errors.markdown(), _WHY])


_INTRO = """\
All 85 rows of `VP_GH200_TUNING`: Qwen3.5-4B, answers of exactly 512 tokens, up to c=128, one run
each. Accept lengths are given (those of the same runs at c=32), nothing is fitted. An error is
predicted over published, minus one."""

_WHY = """\
Plain decoding comes near. Drafting is predicted too fast up to c=32:

* **A prefill takes some 40 ms, of one prompt or of eight.** Plain decoding serves 282 and 2,004
  tok/s at c=1 and 8 with requests coming and going, 289 and 2,048 in a held batch
  (`VP_GH200_PROFILE`): 44 ms per wave of requests at either, of which we have about 10. DFlash at
  block 8 spends 11.0 ms per cycle at c=8 with arrivals, 8.6 in a held batch (`VP_GH200_HOSTGAP`):
  33 ms per arrival. Times to first token of 35 to 180 ms are published (`VP_GH200_CONFIRM`). These
  servers name no CUDA graphs for prefills, those of the B200 cards do. Plain answers of one length
  end together and share a prefill; with drafts each request ends alone, and the prefill of its
  successor stops all others.
* **The host waits with FlashInfer**, 1.4 to 1.8 ms per cycle (`VP_GH200_HOSTGAP`). MTP with
  Triton, which does not wait, is much nearer.
* **Triton attention** costs more than the FA3 it is priced with (previous section): DFlash with
  Triton shows it.
* **Replayed states** (`--enable-linear-replayssm-spec`) are not modelled. The verify pass then
  writes none, and those rows are predicted too slow at c=128.

At c=64 and 128 the memory plan lets fewer requests run at once than `--max-mamba-cache-size` did
there; the column says how many."""
