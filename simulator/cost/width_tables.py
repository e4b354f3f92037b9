"""GPU time of cycles whose verify width is chosen on the way, also one per request.

Each uniform width is priced as a cycle of its own. Rows that widths of their own add up to lie
between two uniform widths, and so does their price; what was drafted before is priced apart, since
a draft may be longer than what is verified of it.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from dflash_sim.simulator.cost.cycle import PHASES, Cycle
from dflash_sim.simulator.cost.parts import Priced
from dflash_sim.simulator.cost.step_table import BatchTable, StepModel, padded_size

Floats = npt.NDArray[np.float64]
_DRAFT = PHASES.index("draft")


@dataclass
class WidthSteps:
    """The step models of all widths up to the widest, which is ``full``."""

    full: StepModel
    _models: dict[int, StepModel] = field(default_factory=dict, repr=False)
    _stacks: dict[int, tuple[Floats, Floats, Floats, Floats]] = field(
        default_factory=dict, repr=False
    )

    @property
    def cycle(self) -> Cycle:
        return self.full.cycle

    @property
    def v1(self) -> bool:
        return self.full.v1

    @property
    def block(self) -> int:
        """The widest verify [token]."""
        return self.full.cycle.block

    def reach(self, ctx: int) -> None:
        """Extend the tables to contexts of ``ctx`` tokens, if they end before."""
        self.full.reach(ctx)
        for model in self._models.values():
            model.reach(ctx)
        self._stacks = {b: s for b, s in self._stacks.items() if s[0][-1] >= ctx}

    def graph_of(self, batch: int) -> int:
        """Requests that the graph of a batch computes."""
        return padded_size(self.full.graph_sizes, batch, self.full.graph_max_bs)

    def at(self, width: int) -> StepModel:
        """The step model of one uniform width."""
        if width == self.block:
            return self.full
        if width not in self._models:
            self._models[width] = replace(
                self.full,
                cycle=replace(self.cycle, block=width),
                _tables={},
                _prefill_s={},
                _prefill_parts={},
                _prefill_launch_s={},
                _known=Priced(),
            )
        return self._models[width]

    def decode_s(self, batch: int, kv_tokens: float, *, rows: int, drafted: int) -> float:
        """GPU seconds of a cycle that verifies ``rows`` in all, after a draft of ``drafted``."""
        if rows == batch * drafted:
            return self.at(drafted).decode_s(batch, kv_tokens)
        rest, draft, _ = self._at_ctx(batch, kv_tokens)
        return float(_between(rest, rows / batch) + draft[drafted - 1])

    def tail_s(self, batch: int, kv_tokens: float, *, rows: int) -> float:
        """GPU seconds after the accepted lengths are published."""
        return float(_between(self._at_ctx(batch, kv_tokens)[2], rows / batch))

    def draft_s(self, batch: int, kv_tokens: float, *, drafted: int) -> float:
        """GPU seconds of the draft phase."""
        return self.at(drafted).draft_s(batch, kv_tokens)

    def curve(self, batch: int, kv_tokens: float) -> tuple[Floats, Floats]:
        """Return the cost of a budget in seconds, by rows verified and by width drafted.

        The first begins with one row per request, and leaves out the draft; the second with
        width 1.
        """
        rest, draft, _ = self._at_ctx(batch, kv_tokens)
        rows = np.arange(batch, batch * self.block + 1)
        return np.interp(rows, batch * np.arange(1, self.block + 1), rest), draft

    def prefill_s(self, *, requests: int, tokens: int, prefix: float = 0.0) -> float:
        return self.full.prefill_s(requests=requests, tokens=tokens, prefix=prefix)

    def prefill_launch_s(self, tokens: int) -> float:
        return self.full.prefill_launch_s(tokens)

    def prefill_parts(self, *, requests: int, tokens: int, prefix: float) -> np.ndarray:
        return self.full.prefill_parts(requests=requests, tokens=tokens, prefix=prefix)

    def table(self, batch: int) -> BatchTable:
        """The table at the widest verify."""
        return self.full.table(batch)

    def mixed_table(self, batch: int, *, rows: int, drafted: int) -> BatchTable:
        """The table of a cycle as :meth:`decode_s` prices it."""
        if rows == batch * drafted:
            return self.at(drafted).table(batch)
        low, share = divmod(rows / batch, 1)
        under = self.at(int(low)).table(batch)
        over = self.at(min(int(low) + 1, self.block)).table(batch)
        parts = under.parts + share * (over.parts - under.parts)
        parts[_DRAFT] = self.at(drafted).table(batch).parts[_DRAFT]
        return BatchTable.of(under.padded, under.ctx, parts)

    def _at_ctx(self, batch: int, kv_tokens: float) -> tuple[Floats, Floats, Floats]:
        """By width: seconds but for the draft, of the draft, and of the tail."""
        ctx, rest, draft, tail = self._stack(batch)
        mean = kv_tokens / batch
        i = int(np.clip(np.searchsorted(ctx, mean), 1, len(ctx) - 1))
        share = min(max((mean - ctx[i - 1]) / (ctx[i] - ctx[i - 1]), 0.0), 1.0)
        low, high = (1 - share), share
        return (
            low * rest[:, i - 1] + high * rest[:, i],
            low * draft[:, i - 1] + high * draft[:, i],
            low * tail[:, i - 1] + high * tail[:, i],
        )

    def _stack(self, batch: int) -> tuple[Floats, Floats, Floats, Floats]:
        """``ctx``, and ``[width, ctx]`` of the three."""
        if batch not in self._stacks:
            tables = [self.at(w).table(batch) for w in range(1, self.block + 1)]
            draft = np.array([t.draft for t in tables])
            rest = np.array([t.total for t in tables]) - draft
            self._stacks[batch] = tables[0].ctx, rest, draft, np.array([t.tail for t in tables])
        return self._stacks[batch]


def _between(by_width: Floats, width: float) -> float:
    """Linear between uniform widths; the first entry is width 1."""
    i = min(int(width), len(by_width) - 1)
    return float(by_width[i - 1] + (width - i) * (by_width[i] - by_width[i - 1]))
