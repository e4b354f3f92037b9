"""Measured operator times of one GPU: what ran, on which sizes, and how far to trust it.

``dflash-sim calibrate import-silicon`` writes the files under ``ops/<gpu>/``; their ``meta.toml``
says where each number came from, what was changed, and how far lookups miss held-out points.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import log
from pathlib import Path
from typing import Any

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import roots
from dflash_sim.profiles.one_look import seen
from dflash_sim.profiles.times.interpolation import Found, GemmCurve, GemmGrid, Line, Sheet
from dflash_sim.profiles.times.op_file import Key, Matrix

FAMILIES = ("gemm", "moe", "attention", "gdn", "comm")
FILES = (*(f"{family}.csv" for family in FAMILIES), "meta.toml")
# Attention kernels by preference: the first one measured for a shape is its default.
BACKENDS = ("trtllm_mha", "fa3", "flash_attention", "flashinfer", "triton")
EXPERT_DTYPES = {"mxfp4": "w4a16_mxfp4"}  # as Hugging Face names them, as the tables do
KEPT = 1 << 16  # remembered lookups per kind; a KV length is rarely asked twice


@dataclass(frozen=True)
class Timing:
    """One operator's time and the evidence behind it.

    Parameters
    ----------
    seconds : time of one call [s]
    evidence : ``measured`` between points of a table, ``fitted`` past them or on a nearby shape
    rel_err : typical relative error, from held-out table points [1]
    table, row : the file that it was read from, and the words that name its row there
    """

    seconds: float
    evidence: str
    rel_err: float
    table: str = ""
    row: tuple[object, ...] = ()

    def changed(self, seconds: float, evidence: str) -> "Timing":
        """Another time that rests on this one."""
        return Timing(seconds, evidence, self.rel_err, self.table, self.row)

    @property
    def origin(self) -> str:
        """Say where it was read, in words such as ``gemm.csv 1536 4096``."""
        return " ".join(map(str, (self.table, *self.row)))


FREE = Timing(seconds=0.0, evidence="measured", rel_err=0.0)


@dataclass(frozen=True, eq=False)
class OpTables:
    """Operator times of one GPU model; per-rank shapes go in, seconds come out.

    Every lookup answers ``None`` when nothing comparable was measured, except :meth:`gemm`,
    which falls back to its fitted curve.
    """

    device: str
    digest: str
    meta: dict[str, Any]
    _gemm: GemmGrid
    _moe: dict[Key, Line]
    _attention: dict[str, dict[Key, Sheet]]
    _gdn: dict[Key, Sheet]
    _comm: dict[Key, Line]
    _rel_err: dict[str, dict[str, float]]

    @classmethod
    def load(cls, device: str, *, profiles_dirs: Sequence[str | Path] = ()) -> "OpTables | None":
        """Tables of ``device``, or ``None`` when it has none.

        Parameters
        ----------
        device : GPU name, such as ``b200``
        profiles_dirs : searched for ``ops/<device>/`` before the shipped profiles
        """
        for root in roots(tuple(map(Path, profiles_dirs))):
            folder = root / "ops" / device
            if (folder / "meta.toml").is_file():
                return seen(folder, partial(_load, device), frozen=True)
        return None

    def gemm(self, *, m: int, n: int, k: int, dtype: str = "bfloat16") -> Timing | None:
        """Time of a ``[m, k] x [k, n]`` product; None in a format that was not timed."""
        return _gemm(self, m, n, k) if dtype == "bfloat16" else None

    def moe(
        self,
        *,
        tokens: float,
        experts: int,
        top_k: int,
        hidden: int,
        inter: int,
        tp: int,
        distribution: str = "power_law_1.2",
        dtype: str = "bfloat16",
    ) -> Timing | None:
        """Time of one rank's routed experts: top-k choice, two grouped products, weighted sum.

        The router's own product is not included.

        Parameters
        ----------
        tokens : rows entering the layer [token]
        experts, top_k, hidden, inter : the layer before sharding [1]
        tp : ranks sharing each expert's ``inter`` columns [1]
        distribution : how tokens spread over experts: ``balanced`` or ``power_law_<alpha>``
        dtype : of the expert weights: ``bfloat16`` or ``mxfp4``
        """
        shape = (experts, top_k, hidden, inter, tp)
        line = self._moe.get((*map(str, shape), distribution, EXPERT_DTYPES.get(dtype, dtype)))
        row = (*shape, distribution)
        return None if line is None else self._timing("moe", line.at(tokens), row)

    def decode_attention(
        self,
        *,
        batch: float,
        kv_len: float,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int = 0,
        backend: str | None = None,
        kv_dtype: str = "bfloat16",
    ) -> Timing | None:
        """Time of one layer's attention with one query per request, on one rank.

        Parameters
        ----------
        batch : requests [1]
        kv_len : cached tokens per request, the new one included [token]
        heads, kv_heads : of this rank [1]
        head_dim : width of a head [1]
        window : sliding window, 0 for none [token]
        backend : kernel family; the default is the first of :data:`BACKENDS` with this shape
        """
        if kv_dtype != "bfloat16":
            return None
        return _attention(self, "decode", batch, kv_len, heads, kv_heads, head_dim, window, backend)

    def prefill_attention(
        self,
        *,
        batch: int,
        seq: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int = 0,
        kv_dtype: str = "bfloat16",
    ) -> Timing | None:
        """Time of one layer's causal attention over ``batch`` fresh prompts of ``seq`` tokens."""
        if kv_dtype != "bfloat16":
            return None
        return _attention(self, "prefill", batch, seq, heads, kv_heads, head_dim, window, None)

    def gdn_decode(self, *, batch: float, v_heads: int, k_heads: int) -> Timing | None:
        """Time of one gated-delta-rule step for ``batch`` requests, linear between batches."""
        return self._gdn_at("recurrent_decode", 1, batch, v_heads, k_heads)

    def gdn_conv(self, *, tokens: int, v_heads: int, k_heads: int) -> Timing | None:
        """Time of the causal convolution's one-token state update for ``tokens`` requests."""
        return self._gdn_at("conv_update", 1, tokens, v_heads, k_heads)

    def gdn_prefill(self, *, batch: int, seq: float, v_heads: int, k_heads: int) -> Timing | None:
        """Time of the chunked gated delta rule over ``batch`` prompts of ``seq`` tokens."""
        return self._gdn_at("chunk_prefill", seq, batch, v_heads, k_heads)

    def gdn_prefill_conv(
        self, *, batch: int, seq: float, v_heads: int, k_heads: int
    ) -> Timing | None:
        """Time of the causal convolution over ``batch`` prompts of ``seq`` tokens."""
        return self._gdn_at("conv_prefill", seq, batch, v_heads, k_heads)

    def all_reduce(self, *, nbytes: float, gpus: int) -> Timing | None:
        """Time to sum ``nbytes`` [byte] over ``gpus`` in one node, inside a CUDA graph."""
        return self._comm_at("all_reduce", nbytes, gpus)

    def all_gather(self, *, nbytes: float, gpus: int) -> Timing | None:
        """Time to gather a result of ``nbytes`` [byte] on every GPU; each brings its share."""
        return self._comm_at("all_gather", nbytes, gpus)

    def _gdn_at(
        self, kernel: str, seq: float, batch: float, v_heads: int, k_heads: int
    ) -> Timing | None:
        sheet = self._gdn.get((kernel, str(v_heads), str(k_heads)))
        row = (kernel, v_heads, k_heads)
        return None if sheet is None else self._timing(f"gdn.{kernel}", sheet.at(seq, batch), row)

    def _comm_at(self, op: str, nbytes: float, gpus: int) -> Timing | None:
        if gpus == 1:
            return FREE
        line = self._comm.get((op, str(gpus)))
        return None if line is None else self._timing(f"comm.{op}", line.at(nbytes), (op, gpus))

    def _timing(self, kind: str, found: Found, row: tuple[object, ...]) -> Timing:
        seconds, inside = found
        evidence = "measured" if inside else "fitted"
        table = f"{kind.partition('.')[0]}.csv"
        return Timing(seconds, evidence, self._rel_err[kind][evidence], table, row)


@lru_cache(maxsize=KEPT)
def _gemm(tables: OpTables, m: int, n: int, k: int) -> Timing:
    grid = tables._gemm
    kind = "gemm" if grid.covers(n=n, k=k) else "gemm.past_edge"
    seconds, inside = grid.at(m=m, n=n, k=k)
    row = (f"{n}x{k}",) if inside else (f"{n}x{k}", "by its curve")
    return tables._timing(kind, (seconds, inside), row)


@lru_cache(maxsize=KEPT)
def _attention(
    tables: OpTables,
    phase: str,
    batch: float,
    length: float,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int,
    backend: str | None,
) -> Timing | None:
    key = _nearest(tables, phase, heads, kv_heads, head_dim, window, backend)
    narrowed = key is None and window > 0
    if narrowed:
        # Reading only the window's tokens costs what a cache of that length costs.
        key = _nearest(tables, phase, heads, kv_heads, head_dim, 0, backend)
    if key is None:
        return None
    sheet = tables._attention[phase][key]
    seconds, inside = sheet.at(batch, min(length, window) if narrowed else length)
    same = key[0] == (backend or key[0]) and int(key[1]) == heads
    cut = narrowed and length > window
    return tables._timing(f"attention.{phase}", (seconds, inside and same and not cut), key)


@lru_cache(maxsize=KEPT)
def _nearest(
    tables: OpTables,
    phase: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int,
    backend: str | None,
) -> Key | None:
    """Key with this cache shape: wanted kernel, else default one; nearest query heads."""
    cache = (str(kv_heads), str(head_dim), str(window))
    order = {name: rank for rank, name in enumerate(BACKENDS)}

    def distance(key: Key) -> tuple[bool, int, float, str]:
        return (
            backend is not None and key[0] != backend,
            order.get(key[0], len(order)),
            round(abs(log(int(key[1]) / heads)), 6),
            key[0],
        )

    found = (key for key in tables._attention[phase] if key[2:] == cache)
    return min(found, key=distance, default=None)


def _load(device: str, folder: Path) -> OpTables:
    try:
        raw = {name: (folder / name).read_bytes() for name in FILES}
        meta = tomllib.loads(raw["meta.toml"].decode())
        gemm, moe, attention, gdn, comm = (
            Matrix(raw[f"{family}.csv"], cells=meta[family]["cells"]) for family in FAMILIES
        )
        return OpTables(
            device=device,
            digest=hashlib.sha256(b"".join(raw[name] for name in FILES)).hexdigest()[:12],
            meta=meta,
            _gemm=GemmGrid(
                [int(m) for m in gemm.axis],
                {(int(n), int(k)): times for (n, k), times in gemm.rows.items()},
                GemmCurve(**meta["gemm"]["curve"]),
            ),
            _moe=moe.lines(),
            _attention={
                "decode": attention.sheets(first="decode"),
                "prefill": attention.sheets(first="prefill", power=True),
            },
            _gdn=gdn.sheets(),
            _comm=comm.lines(),
            _rel_err=meta["rel_err"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"cannot read the operator tables in {folder}: {error}"
        raise UsageError(msg) from error
