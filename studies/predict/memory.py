"""The memory of a GPU as a sum: a page that goes step by step, and a flat row of the same."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dflash_sim.profiles.formats import PLAIN
from dflash_sim.profiles.units import GIGA, KILO, MEGA, MiB
from dflash_sim.simulator.cost.sampling import extra_bytes
from dflash_sim.simulator.row import Row
from dflash_sim.simulator.setup import Setup
from dflash_sim.simulator.static_share import GIVEN
from dflash_sim.studies.show.figures import number
from dflash_sim.studies.show.styles import LABEL, STRONG
from dflash_sim.studies.show.titles import method_title

Step = tuple[str, str, str]  # what, how much with its unit, and how it came about


def memory_row(setup: Setup) -> Row:
    """The sum as a flat row: bytes per GPU, tokens, requests, and what limits them.

    Every term that the engine leaves outside has its name in ``outside_mib`` [MiB].
    """
    m, share = setup.memory, setup.share
    return {
        "gpu": setup.device.name,
        "tp": setup.tp,
        "model": setup.model.name,
        "method": setup.method.name,
        "block": setup.block,
        "engine": setup.engine.name,
        "gpu_bytes": setup.device.mem_bytes,
        "free_bytes": m.free_bytes,
        "outside_mib": dict(share.outside),
        "vision_share": share.vision_share,
        "mem_fraction_static": share.mem_fraction,
        "static_bytes": m.static_bytes,
        "quantization": setup.quantization,
        "weight_formats": _weights(setup),
        "kv_cache_dtype": setup.kv_cache_dtype,
        "weight_bytes": m.weight_bytes,
        "vision_weight_bytes": m.vision_weight_bytes,
        "draft_weight_bytes": m.draft_weight_bytes,
        "draft_weights_counted": m.draft_counted,
        "held_bytes": m.held_bytes,
        "rest_bytes": m.rest_bytes,
        "state_formula": setup.engine.defaults.state_pool.formula if m.state_bytes else None,
        "mamba_radix_cache_strategy": m.strategy or None,
        "mamba_ssm_dtype": setup.precision.state if m.state_bytes else None,
        "state_bytes": m.state_bytes,
        "slots_per_request": m.slots_per_request,
        "state_slots": m.state_slots,
        "scratch_bytes": m.scratch_bytes,
        "gdn_bytes": m.gdn_bytes,
        "kv_bytes": m.kv_bytes,
        "kv_bytes_per_token": m.kv_bytes_per_token,
        "kv_tokens": m.kv_tokens,
        "max_running_requests": m.max_running_requests,
        "max_running_requests_cause": m.cap_cause,
    }


def memory_page(setup: Setup) -> RenderableType:
    """The page: from the memory of one GPU down to the requests that run at once."""
    heading = " · ".join(
        [
            setup.model.name,
            method_title(setup),
            f"{setup.num_gpus} x {setup.device.name}, TP {setup.tp}",
            setup.engine.name,
        ]
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style=LABEL, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for what, size, how in memory_steps(setup):
        table.add_row(what, size, Text(how, style="dim"))
    warnings = [Text(f"warning: {w}", style="yellow") for w in setup.warnings]
    return Group(Text(heading, style=STRONG), Text(), table, *warnings)


def memory_steps(setup: Setup) -> Iterator[Step]:
    """Each step of the sum in words; sizes per GPU."""
    m = setup.memory
    held = setup.device.mem_bytes - m.free_bytes
    yield "GPU memory", _gb(setup.device.mem_bytes), setup.device.title
    yield "- before loading", _gb(held), "CUDA context, NCCL, workspaces (reserved_memory)"
    yield from _share(setup)
    yield "= static", _gb(m.static_bytes), f"{setup.share.mem_fraction:.4f} x {_gb(m.free_bytes)}"
    vision = f", {_gb(m.vision_weight_bytes)} of them vision tower" if m.vision_weight_bytes else ""
    yield "- weights", _gb(m.weight_bytes), f"{_weights(setup)} on {setup.tp} ranks{vision}"
    if m.draft_weight_bytes:
        later = "loaded after the caches are sized, outside the static share"
        form = setup.precision.form("drafter")
        named = f"{setup.draft_name}{'' if form == PLAIN else f' in {form}'}"
        counted = named if m.draft_counted else f"{named}; {later}"
        yield "- drafter" if m.draft_counted else "  drafter", _gb(m.draft_weight_bytes), counted
    if m.held_bytes:
        yield "- images", _gb(m.held_bytes), "cache of encoded images"
    yield "= rest", _gb(m.rest_bytes), "for recurrent states and KV cache"
    if m.state_bytes:
        yield from _states(setup)
    tokens = f"{m.kv_tokens:,} tokens of {m.kv_bytes_per_token / KILO:.1f} kB{_cached(setup)}"
    drafted = ", the drafter's keys and values with" if m.draft_weight_bytes else ""
    yield "= KV cache", _gb(m.kv_bytes), tokens + drafted
    if setup.model.latent_layers and setup.tp > 1:
        same = "the latents of all heads, the same on every rank; --enable-dp-attention, which is"
        yield "  on each rank", "", f"{same} not simulated, would hold {setup.tp} times the tokens"
    if drawn := sampling_bytes(setup):
        of = "probabilities of a full batch, beside the static share"
        yield "  sampling", _gb(drawn), of
    yield "running requests", f"{m.max_running_requests:,}", f"limited by: {m.cap_cause}"


def sampling_bytes(setup: Setup) -> float:
    """What drawing the tokens of a full batch holds at its peak on each GPU [byte]."""
    batch = setup.memory.max_running_requests
    batch = min(batch, setup.scenario.conc or batch)
    rows = {"vocab": setup.model.vocab, "requests": batch, "rows": setup.block}
    return extra_bytes(setup.step.cycle.sampling, **rows, chain=setup.method.sequential)


def _weights(setup: Setup) -> str:
    """The formats of the target's weights, each with the modules that have it."""
    p = setup.precision
    by_form: dict[str, list[str]] = {}
    for module, form in p.modules:
        if form != p.weights and module != "drafter":
            by_form.setdefault(form, []).append(module)
    apart = [f"{form} ({', '.join(modules)})" for form, modules in by_form.items()]
    return " and ".join([*apart, p.weights])


def _cached(setup: Setup) -> str:
    """The formats of keys and values, where they are not bf16."""
    p = setup.precision
    if p.kv_cache == PLAIN:
        return ""
    apart = f", {p.draft_kv_cache} for the drafter" if p.draft_kv_cache else ""
    return f" in {p.kv_cache}{apart}"


def _share(setup: Setup) -> Iterator[Step]:
    share = setup.share
    if not share.outside:
        yield "x memory fraction", f"{share.mem_fraction:.4f}", f"given, {GIVEN}"
        return
    outside = sum(mib for _, mib in share.outside)
    for name, mib in share.outside:
        yield "  left outside", f"{mib:,.0f} MiB", name
    of = setup.device.mem_bytes / MiB
    digits = setup.engine.defaults.outside_static.fraction_digits
    how = f"1 - {outside:,.0f} / {of:,.0f} MiB, to {digits} digits"
    if share.vision_share != 1:
        how += f", x {share.vision_share:.4f} for the vision tower"
    yield "x memory fraction", f"{share.mem_fraction:.4f}", how


def _states(setup: Setup) -> Iterator[Step]:
    m, d = setup.memory, setup.engine.defaults
    s = setup.scenario
    each = f"{m.state_bytes / MEGA:.1f} MB each ({setup.precision.state}, convolution windows with)"
    slots = f"{m.state_slots:,} slots of {each}"
    given = s.max_mamba_cache_size is not None
    if given:
        slots += ", --max-mamba-cache-size"
    elif s.radix_cache:
        ratio = s.mamba_full_memory_ratio or d.mamba_full_memory_ratio
        slots += f"; mamba_full_memory_ratio {ratio:g}, {_formula(d.state_pool.formula)}"
    yield "- state slots", _gb(m.gdn_bytes - m.scratch_bytes), slots
    if m.scratch_bytes:
        rows = f"{setup.block} verified positions of every running request"
        yield "- scratch", _gb(m.scratch_bytes), rows
    yield "  slots per request", f"{m.slots_per_request}", m.strategy


def _formula(name: str) -> str:
    if name == "joint":
        return "which slots and scratch share"
    return "of what the scratch leaves"


def _gb(nbytes: float) -> str:
    return f"{number(nbytes / GIGA)} GB"


__all__ = ["memory_page", "memory_row", "memory_steps"]
