"""The subject of a measurement: a model, its drafter, their ranks, and the sizes of passes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from dflash_sim.calibrate.measure.op_cases import Surroundings
from dflash_sim.kernels.layers.spec import DrafterSpec, TargetSpec
from dflash_sim.profiles.networks.hf_config import (
    AttentionShape,
    DrafterShape,
    GdnShape,
    ModelShape,
)
from dflash_sim.profiles.times.machine_profile import AXES
from dflash_sim.simulator.cost.cycle import Cycle, Phase
from dflash_sim.simulator.cost.methods import METHODS, PLAIN
from dflash_sim.simulator.cost.ops import (
    AnyCall,
    Attention,
    Collective,
    Elementwise,
    GdnPrefill,
    GdnRecurrent,
    Op,
    PrefillAttention,
)

MIXERS = (Attention, PrefillAttention, GdnRecurrent, GdnPrefill)


@dataclass(frozen=True)
class Sizes:
    """The passes to time.

    Parameters
    ----------
    requests : of a decode cycle
    blocks : verify widths with the drafter
    steps : of the native MTP head
    ctx : cached tokens of each request [token]
    prefills : requests of a prefill, new tokens of each [token]
    """

    requests: tuple[int, ...]
    blocks: tuple[int, ...]
    steps: tuple[int, ...]
    ctx: tuple[int, ...]
    prefills: tuple[tuple[int, int], ...]

    @property
    def longest(self) -> int:
        """Tokens of the longest text that a pass reaches."""
        seqs = [seq for _, seq in self.prefills]
        return max(*self.ctx, *seqs) + max((*self.blocks, *(k + 1 for k in self.steps), 1))


def default_sizes(device: str, *, quick: bool) -> Sizes:
    """Sizes that bracket what is asked of a server, or of a laptop."""
    if device == "cpu":
        few: tuple[int, ...] = (1, 4, 8) if quick else (1, 2, 4, 8)
        seqs: tuple[int, ...] = (32, 256) if quick else (16, 32, 64, 128, 256)
        return Sizes(few, (4, 8, 16), (3,), (64, 320), tuple((n, s) for n in few for s in seqs))
    if quick:
        return Sizes((1, 8, 32), (16,), (), (1024, 8192), ((1, 512), (1, 2048)))
    prefills = tuple((n, s) for n in (1, 4) for s in (128, 512, 2048))
    return Sizes((1, 2, 4, 8, 16, 32), (4, 8, 16), (3,), (512, 2048, 8192), prefills)


@dataclass(frozen=True)
class Subject:
    """A target and perhaps its drafter, cut for ``tp`` ranks."""

    target: TargetSpec
    drafter: DrafterSpec | None
    tp: int
    sizes: Sizes

    @property
    def model(self) -> ModelShape:
        """The target's shape."""
        return self.target.shape

    @cached_property
    def cycles(self) -> list[Cycle]:
        """Every method and width that is measured."""
        plain = Cycle(PLAIN, self.model, self.tp, 1)
        found = [plain]
        if self.drafter is not None:
            shape = self.drafter.shape
            found += [
                replace(plain, method=METHODS["dflash"], block=b, drafter=shape)
                for b in self.blocks
            ]
        if self.model.mtp_layer is not None:
            found += [replace(plain, method=METHODS["mtp"], block=k + 1) for k in self.sizes.steps]
        return found

    @property
    def blocks(self) -> tuple[int, ...]:
        """Widths that the drafter was trained for."""
        trained = self.drafter.shape.block_size if self.drafter is not None else 0
        return tuple(b for b in self.sizes.blocks if b <= trained)

    def phases(self) -> Iterator[tuple[Cycle, Phase, int, int]]:
        """Phases at every size: their cycle, requests and rows of each."""
        for cycle in self.cycles:
            for n in self.sizes.requests:
                for ctx in self.sizes.ctx:
                    for phase in cycle.decode(requests=n, ctx=ctx):
                        yield cycle, phase, n, cycle.block
            for n, seq in self.sizes.prefills:
                for phase in cycle.prefill(requests=n, seq=seq, prefix=0.0):
                    yield cycle, phase, n, seq

    def ops(self) -> dict[str, tuple[Op, Surroundings]]:
        """Every distinct op but the collectives, and where it stands."""
        found: dict[str, tuple[Op, Surroundings]] = {}
        for cycle, phase, requests, rows in self.phases():
            for op, at in self._placed(cycle, phase, requests, rows):
                if not isinstance(op, Collective):
                    found.setdefault(key_of(op), (op, at))
        return found

    def collectives(self) -> dict[str, Collective]:
        """Every distinct sum or gather over ranks."""
        return {
            key_of(c.op): c.op
            for _, phase, _, _ in self.phases()
            for c in phase.calls
            if isinstance(c.op, Collective)
        }

    def _placed(
        self, cycle: Cycle, phase: Phase, requests: int, rows: int
    ) -> Iterator[tuple[Op, Surroundings]]:
        drafter = cycle.drafter if isinstance(cycle.drafter, DrafterShape) else None
        drafting = phase.name in ("draft", "materialise") and drafter is not None
        shape = drafter if drafting and drafter is not None else cycle.model
        attention = self._attention(drafting=drafting)
        width = 1 if phase.steps and phase.name == "draft" else rows
        here = Surroundings(
            tokens=requests * width,
            requests=requests,
            rows=width,
            hidden=shape.hidden,
            vocab=self.model.vocab,
            vocab_here=self.model.vocab // self.tp,
            layers=len(drafter.layers) if drafting and drafter is not None else 1,
            gated=attention.gated,
        )
        if phase.name == "commit":
            here = replace(here, layers=self.model.gdn_layers, mixer=self._rule(requests, rows))
        elif drafting and phase.name == "materialise":
            here = replace(here, mixer=self._as_op(attention))
        for i, call in enumerate(phase.calls):
            mixer = here.mixer or _next_mixer(phase.calls, i)
            yield call.op, replace(here, mixer=mixer)

    def _attention(self, *, drafting: bool) -> AttentionShape:
        if drafting and self.drafter is not None:
            return self.drafter.shape.layers[0]
        return self.model.attention_layers[0]

    def _as_op(self, a: AttentionShape) -> Attention:
        kv = max(1, a.num_kv_heads // self.tp)
        return Attention("attention", 1, 1, 0.0, a.num_heads // self.tp, kv, a.head_dim)

    def _rule(self, requests: int, rows: int) -> GdnRecurrent | None:
        shapes = [x.mixer for x in self.model.layers if isinstance(x.mixer, GdnShape)]
        if not shapes:
            return None
        g = shapes[0]
        heads, keys = g.num_v_heads // self.tp, max(1, g.num_k_heads // self.tp)
        return GdnRecurrent(
            "gdn_recurrent", requests, rows, heads, keys, g.head_k_dim, g.head_v_dim
        )


def _next_mixer(calls: list[AnyCall], start: int) -> Op | None:
    return next((c.op for c in calls[start:] if isinstance(c.op, MIXERS)), None)


def shape_of(op: Op) -> dict[str, object]:
    """The fields of an op that its time depends on."""
    same, axes = AXES[type(op).__name__]
    return {name: getattr(op, name) for name in (*same, *axes)}


def key_of(op: Op) -> str:
    """One word for an op of this shape; two ops of one key take the same time."""
    fields = ",".join(
        f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in shape_of(op).items()
    )
    return f"{type(op).__name__}({fields})"


def costs_nothing(op: Op) -> bool:
    """Return True if the simulator itself says that nothing is moved (a launch, and no more)."""
    return isinstance(op, Elementwise) and op.nbytes == 0
