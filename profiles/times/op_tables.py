"""Measured operator times of one GPU: what ran, on which sizes, and how far to trust it.

``dflash-sim calibrate import-silicon`` writes the files under ``ops/<gpu>/``; their ``notes.toml``
says where each number came from, what was changed, and how far lookups miss held-out points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

from dflash_sim.profiles.find import roots
from dflash_sim.profiles.one_look import seen, state_of
from dflash_sim.profiles.times.attention_table import attention_time
from dflash_sim.profiles.times.experts_table import experts_time
from dflash_sim.profiles.times.gemm_table import BF16, gemm_time
from dflash_sim.profiles.times.latent_table import bmm_time, latent_time
from dflash_sim.profiles.times.op_folder import OpFolder
from dflash_sim.profiles.times.timing import FREE as FREE
from dflash_sim.profiles.times.timing import Timing as Timing


@dataclass(frozen=True, eq=False)
class OpTables:
    """Operator times of one GPU model; per-rank shapes go in, seconds come out.

    Every lookup answers ``None`` when nothing comparable was measured, except :meth:`gemm` in
    bf16, which falls back to its fitted curve. Files are read when they are first asked for.
    """

    device: str
    folder: OpFolder

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

    @property
    def meta(self) -> dict[str, Any]:
        """What ``meta.toml`` says: origin, cells by family, curves, errors of lookups."""
        return self.folder.meta

    @property
    def notes(self) -> dict[str, Any]:
        """What ``notes.toml`` says: sources, what the cleaning changed, errors held out."""
        return self.folder.notes

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the bytes of all files."""
        return self.folder.digest

    def gemm(self, *, m: int, n: int, k: int, dtype: str = BF16) -> Timing | None:
        """Time of a ``[m, k] x [k, n]`` product of bf16 inputs and results.

        The kernel that quantises the left matrix to the weights' format is part of the time.

        Parameters
        ----------
        m, n, k : rows, columns and inner size, of this rank [1]
        dtype : of the weights: ``bfloat16``, ``fp8`` (per token and channel), ``fp8_block``,
            ``nvfp4``, ``int8`` or ``int4``; ``None`` comes back for one not timed on this GPU
        """
        return gemm_time(self.folder, m, n, k, dtype)

    def moe(
        self,
        *,
        tokens: float,
        experts: int,
        top_k: int,
        hidden: int,
        inter: int,
        tp: int,
        ep: int = 1,
        distribution: str = "power_law_1.2",
        dtype: str = BF16,
    ) -> Timing | None:
        """Time of one rank's routed experts: top-k choice, two grouped products, weighted sum.

        The router's own product and the exchange between ranks are not included. With expert
        parallelism it is the rank that has most to do.

        Parameters
        ----------
        tokens : rows entering the layer, of all ranks together [token]
        experts, top_k, hidden, inter : the layer before sharding [1]
        tp : ranks sharing each expert's ``inter`` columns [1]
        ep : ranks, or groups of ``tp`` ranks, that hold different whole experts [1]
        distribution : how tokens spread over experts: ``balanced`` or ``power_law_<alpha>``
        dtype : of the expert weights: ``bfloat16``, ``fp8_block``, ``fp8`` (the former's times),
            ``nvfp4``, ``int4``, ``mxfp4`` (bf16 activations) or ``mxfp4_w4a8`` (MXFP8 ones)
        """
        layer = (experts, top_k, hidden, inter)
        return experts_time(
            self.folder, tokens, layer, tp=tp, ep=ep, distribution=distribution, dtype=dtype
        )

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
        kv_dtype: str = BF16,
    ) -> Timing | None:
        """Time of one layer's attention with one query per request, on one rank.

        Parameters
        ----------
        batch : requests [1]
        kv_len : cached tokens per request, the new one included [token]
        heads, kv_heads : of this rank [1]
        head_dim : width of a head [1]
        window : sliding window, 0 for none [token]
        backend : kernel family; the default is the first of ``BACKENDS`` with this shape
        kv_dtype : of the cache: ``bfloat16`` or ``fp8``
        """
        head = (heads, kv_heads, head_dim, window)
        return attention_time(self.folder, "decode", batch, kv_len, head, backend, kv_dtype)

    def prefill_attention(
        self,
        *,
        batch: int,
        seq: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int = 0,
        kv_dtype: str = BF16,
    ) -> Timing | None:
        """Time of one layer's causal attention over ``batch`` fresh prompts of ``seq`` tokens."""
        head = (heads, kv_heads, head_dim, window)
        return attention_time(self.folder, "prefill", batch, seq, head, None, kv_dtype)

    def mla_decode(
        self, *, batch: float, kv_len: float, heads: int, kv_dtype: str = BF16
    ) -> Timing | None:
        """Time of MLA's kernel in the absorbed form, one query per request, on one rank.

        The products that absorb the projections are :meth:`mla_bmm`'s.

        Parameters
        ----------
        batch : requests [1]
        kv_len : cached tokens per request, the new one included [token]
        heads : query heads of this rank; every rank holds the whole cache [1]
        kv_dtype : of the cache: ``bfloat16`` or ``fp8``
        """
        return latent_time(self.folder, "mla", ("decode", kv_dtype), heads, batch, kv_len)

    def mla_prefill(
        self, *, batch: int, seq: int, heads: int, kv_dtype: str = BF16
    ) -> Timing | None:
        """Time of MLA's causal kernel over ``batch`` fresh prompts, per head and not absorbed."""
        return latent_time(self.folder, "mla", ("prefill", kv_dtype), heads, batch, seq)

    def mla_bmm(self, *, tokens: float, heads: int, phase: str, dtype: str = BF16) -> Timing | None:
        """Time of one product per head that absorbs a projection of MLA.

        Parameters
        ----------
        tokens : query rows [token]
        heads : of this rank [1]
        phase : ``pre``, of queries, or ``post``, of values
        dtype : of its weights: ``bfloat16`` or ``fp8``, quantising the rows included
        """
        return bmm_time(self.folder, tokens, heads, phase, dtype)

    def module_decode(
        self,
        *,
        table: str,
        batch: float,
        kv_len: float,
        heads: int,
        model: str,
        kv_dtype: str = BF16,
        dtype: str = "fp8_block",
    ) -> Timing | None:
        """Time of a whole module of sparse attention: projections, indexer, kernel, output.

        Parameters
        ----------
        table : ``dsa`` of latent attention to chosen tokens, ``msa`` of attention to chosen blocks
            of them, ``csa`` of attention over compressed ones
        batch : requests, one query each [1]
        kv_len : cached tokens per request, the new one included [token]
        heads : query heads of this rank [1]
        model : such as ``deepseek-v3.2`` or ``glm-5``
        kv_dtype : of the cache: ``bfloat16`` or ``fp8``
        dtype : of the projections, such as ``fp8_block``
        """
        name = ("decode", model, dtype, kv_dtype)
        return latent_time(self.folder, table, name, heads, batch, kv_len)

    def module_prefill(
        self,
        *,
        table: str,
        batch: int,
        seq: int,
        prefix: int,
        heads: int,
        model: str,
        kv_dtype: str = BF16,
        dtype: str = "fp8_block",
    ) -> Timing | None:
        """Time of a module of sparse attention over ``seq`` new tokens behind ``prefix`` cached.

        One request was timed; more are its time over, as ``fitted``. It ran without a CUDA graph:
        below some hundred tokens its time is that of the launches.
        """
        name = ("prefill", model, dtype, kv_dtype)
        one = latent_time(self.folder, table, name, heads, prefix, seq)
        return one if one is None or batch == 1 else one.changed(batch * one.seconds, "fitted")

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

    def kda(self, *, phase: str, batch: float, rows: int, heads: int) -> Timing | None:
        """Time of Kimi delta attention with its convolution.

        Parameters
        ----------
        phase : ``decode``, ``verify`` or ``prefill``
        batch, rows : requests [1], and rows of each [token]
        heads : of this rank, as many as were timed or the nearest [1]
        """
        sheets = self.folder.table("kda", lambda matrix: matrix.sheets()) or {}
        found = [key for key in sheets if key[0] == phase]
        key = min(found, key=lambda key: abs(log(int(key[1]) / heads)), default=None)
        if key is None:
            return None
        # States of more heads are states of more requests.
        seconds, inside = sheets[key].at(rows, batch * heads / int(key[1]))
        same = inside and int(key[1]) == heads
        return self.folder.timing(f"kda.{phase}", (seconds, same), "kda", key)

    def streams(self, *, step: str, count: int, hidden: int, tokens: float) -> Timing | None:
        """Time of hyper-connections before (``pre``) or behind (``post``) both parts of a layer.

        Parameters
        ----------
        count, hidden : streams [1], and their width
        tokens : rows of the pass [token]
        """
        key = (step, str(count), str(hidden))
        line = (self.folder.table("streams", lambda matrix: matrix.lines()) or {}).get(key)
        if line is None:
            return None
        return self.folder.timing("streams", line.at(tokens), "streams", key)

    def all_reduce(self, *, nbytes: float, gpus: int) -> Timing | None:
        """Time to sum ``nbytes`` [byte] over ``gpus`` in one node, inside a CUDA graph."""
        return self._comm_at("all_reduce", nbytes, gpus)

    def all_gather(self, *, nbytes: float, gpus: int) -> Timing | None:
        """Time to gather a result of ``nbytes`` [byte] on every GPU; each brings its share."""
        return self._comm_at("all_gather", nbytes, gpus)

    def _gdn_at(
        self, kernel: str, seq: float, batch: float, v_heads: int, k_heads: int
    ) -> Timing | None:
        rows = self.folder.table("gdn", lambda matrix: matrix.sheets()) or {}
        sheet = rows.get((kernel, str(v_heads), str(k_heads)))
        if sheet is None:
            return None
        row = (kernel, v_heads, k_heads)
        return self.folder.timing(f"gdn.{kernel}", sheet.at(seq, batch), "gdn", row)

    def _comm_at(self, op: str, nbytes: float, gpus: int) -> Timing | None:
        if gpus == 1:
            return FREE
        rows = self.folder.table("comm", lambda matrix: matrix.lines()) or {}
        line = rows.get((op, str(gpus)))
        if line is None:
            return None
        return self.folder.timing(f"comm.{op}", line.at(nbytes), "comm", (op, gpus))


_KEPT: dict[Path, tuple[object, OpTables]] = {}  # with what the files were like


def _load(device: str, folder: Path) -> OpTables:
    """The tables of a folder; those of before while its files stay as they are."""
    now = state_of(folder)
    before = _KEPT.get(folder)
    if before is not None and before[0] == now:
        return before[1]
    found = OpTables(device=device, folder=OpFolder(folder))
    if now is None:
        _KEPT.pop(folder, None)
    else:
        _KEPT[folder] = now, found
    return found
