"""The published measurement of a scenario, if there is one."""

from dflash_sim.profiles.load import load_model, load_published
from dflash_sim.profiles.networks.hf_config import DrafterShape
from dflash_sim.profiles.releases.sampled_rows import SampledPoint, load_sampled
from dflash_sim.profiles.sheets import PublishedPoint
from dflash_sim.simulator.cost.sampling import Sampling
from dflash_sim.simulator.number_formats import UNQUANTISED
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup


def nearest_published(setup: Setup) -> PublishedPoint | None:
    """The published row of this very scenario; none where an override makes it another one.

    First releases of a model on another build are none either.
    """
    s = setup.scenario
    elsewhere = setup.calibration.about.get("server_sources", ()) if setup.calibration else ()
    home = s.build in (None, setup.engine.fit.build)
    if setup.dataset is None or s.conc is None or not _as_published(s, setup):
        return None
    mode = {"v1": "spec_v1", "v2": "spec_v2", "v2-sync": "spec_v2_sync"}[s.engine_mode]
    asked = (setup.model.name, setup.device.name, setup.tp, s.method, setup.block)
    asked_load = (setup.dataset.name, s.conc)
    for p in load_published() if Sampling.of(s).greedy else load_sampled():
        same = (p.model, p.gpu, p.tp, p.method, p.block) == asked
        same = same and (p.dataset, p.conc) == asked_load
        same = same and p.thinking in (s.thinking, None) and p.max_new_tokens == s.max_new_tokens
        same = same and p.source_id not in elsewhere
        same = same and (home or (isinstance(p, SampledPoint) and p.build == s.build))
        same = same and (not isinstance(p, SampledPoint) or _as_drawn(p, setup))
        kernels = p.linear_attn_decode_backend
        same = same and s.linear_attn_decode_backend in (None, kernels or None)
        if same and (not setup.speculative or p.engine_mode in (mode, "unknown")):
            return p
    return None


def _as_drawn(p: SampledPoint, setup: Setup) -> bool:
    s = setup.scenario
    drawn = (s.temperature, s.top_p, s.top_k) == (p.temperature, p.top_p, p.top_k)
    return drawn and setup.backend == (p.attention_backend or setup.default_backend)


def _as_published(s: Scenario, setup: Setup) -> bool:
    """True if every setting that published rows leave open still has its default."""
    return (
        _own_drafter(s, setup)
        and s.acceptance is None
        and s.content is None
        and not s.speculative_use_rejection_sampling
        and s.quantization in (None, UNQUANTISED)
        and s.speculative_draft_model_quantization in (None, UNQUANTISED)
        and setup.precision.kv_cache == setup.model.precision.kv_cache
        and setup.policy is None
        and s.window is None
        and s.radix_cache
        and s.cache_hit is None
        and s.min_free_slots_delay is None
        and s.scheduler_recv_interval == 1
        and s.cuda_graph_backend_prefill is None
        and setup.backend == setup.default_backend
        and (setup.limits.max_running_requests >= (s.conc or 1) or _own_memory(s))
        and setup.graph_max_bs >= (s.conc or 1)
    )


def _own_memory(s: Scenario) -> bool:
    """True if memory is divided as the engine does it: how many run at once is our prediction."""
    given = (s.max_running_requests, s.mem_fraction_static, s.max_mamba_cache_size)
    return given == (None, None, None)


def _own_drafter(s: Scenario, setup: Setup) -> bool:
    """True if the drafter is the one made for the model, whether named or not."""
    if s.draft_model is None or not isinstance(setup.drafter, DrafterShape):
        return True
    return load_model(setup.drafter.target).name == setup.model.behaves_as
