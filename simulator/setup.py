"""Scenario -> everything an engine needs: sheets loaded, shapes checked, memory divided."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dflash_sim.profiles.errors import InfeasibleError, UsageError
from dflash_sim.profiles.formats import PLAIN, format_of
from dflash_sim.profiles.load import default_node, load_device, load_model
from dflash_sim.profiles.networks.hf_config import DrafterShape, ModelShape, check_tp
from dflash_sim.profiles.precision import Precision
from dflash_sim.profiles.releases.calibration import Calibration, load_calibration
from dflash_sim.profiles.releases.engine_sheet import EngineSheet, load_engine
from dflash_sim.profiles.releases.engine_versions import match_engine
from dflash_sim.profiles.releases.server_levels import Server
from dflash_sim.profiles.sheets import Dataset, Device, Node
from dflash_sim.profiles.times.machine_profile import MeasuredProfile, is_profile, load_measured
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.asked_acceptance import expected, uncalibrated
from dflash_sim.simulator.caveats import cautions, drafter_cautions
from dflash_sim.simulator.cost.cycle import Cycle, Drafter, Method
from dflash_sim.simulator.cost.methods import drafter_for
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.cost.sampling import Sampling
from dflash_sim.simulator.cost.step_table import StepModel
from dflash_sim.simulator.cost.width_tables import WidthSteps
from dflash_sim.simulator.defaults import (
    as_launched,
    backend_of,
    check_context,
    chunk_of,
    context_cautions,
    default_backend,
    largest_graph,
    launch_of,
    limits_of,
    own_kernels,
    parallel,
    roomier,
    share_of,
    verify_rows,
)
from dflash_sim.simulator.draft_shape import check_drafts, check_pair
from dflash_sim.simulator.engine.host_stages import HostTime
from dflash_sim.simulator.engine.scheduler import Limits
from dflash_sim.simulator.memory import TP_SIZES, MemoryPlan, plan_memory
from dflash_sim.simulator.number_formats import UNQUANTISED, precision_for, served
from dflash_sim.simulator.policy.interface import Policy
from dflash_sim.simulator.policy.parse import parse_policy
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.workload import Part, parts_of
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.static_share import StaticShare

_HOME = Server()


@dataclass(frozen=True)
class Setup:
    """A scenario with every default filled in and every sheet loaded."""

    scenario: Scenario
    device: Device
    node: Node
    engine: EngineSheet
    model: ModelShape
    drafter: Drafter
    tp: int
    num_gpus: int
    block: int
    window: int | None
    backend: str
    memory: MemoryPlan
    limits: Limits
    graph_max_bs: int
    share: StaticShare
    precision: Precision
    tables: OpTables | None
    lender: Device | None
    warnings: tuple[str, ...]
    calibration: Calibration | None = None
    policy: Policy | None = None
    measured: MeasuredProfile | None = None
    dataset: Dataset | None = None
    parts: tuple[Part, ...] = ()  # of a mixture of data sets
    given_expectation: Expectation | None = None
    server: Server = _HOME  # what tells it from the one that the engine's constants are of

    @property
    def method(self) -> Method:
        """The method's row in the table of methods."""
        return self.scenario.speculation

    @property
    def mem_fraction(self) -> float:
        """Share of memory for weights and caches [1]."""
        return self.share.mem_fraction

    @property
    def quantization(self) -> str:
        """What SGLang calls the precision of the target's weights, ``bf16`` if they have none."""
        return self.model.quantized.name if self.model.quantized else UNQUANTISED

    @property
    def kv_cache_dtype(self) -> str:
        """What SGLang calls the format of keys and values."""
        kv = format_of(self.precision.kv_cache).kv
        return kv.spelled[0] if kv else self.precision.kv_cache

    @property
    def draft_quantization(self) -> str | None:
        """The precision of the drafter's weights by the same names; None without a drafter."""
        if self.drafter is None:
            return None
        form = self.precision.form("drafter")
        return UNQUANTISED if form == PLAIN else form

    @property
    def speculative(self) -> bool:
        return self.method.speculative

    @property
    def host_length_sync(self) -> bool:
        """True if the backend's plan copies sequence lengths to the host in every step."""
        return self.backend in self.engine.attention.host_length_sync[self.method.drafts]

    @property
    def most_tokens(self) -> int:
        """Most tokens of a request in a cycle: a path of a tree may be shorter than its width."""
        s = self.scenario
        return min((s.steps or 0) + 1, self.block) if s.topk > 1 else self.block

    @property
    def default_backend(self) -> str:
        """Target attention backend of this GPU when none is named."""
        return default_backend(self.scenario, self.device, self.engine, self.model)

    @property
    def cache_unit(self) -> int:
        """Tokens per unit of prefix reuse: a page, or a hybrid state checkpoint; 0 is off."""
        return self.limits.cache_unit

    @property
    def draft_name(self) -> str | None:
        """The drafting network in words."""
        if self.drafter is not None:
            return self.drafter.name
        return f"{self.model.name} (native MTP)" if self.method.network == "mtp-layer" else None

    @cached_property
    def expectation(self) -> Expectation | None:
        """The acceptance to expect, refined by the calibration; None where nothing is drafted.

        Raises
        ------
        MissingProfileError
            None is given, and none is published.
        """
        return expected(self)

    @cached_property
    def uncalibrated(self) -> Expectation | None:
        """The acceptance that is given or published, before any calibration."""
        return uncalibrated(self)

    @cached_property
    def host(self) -> HostTime:
        return HostTime.from_sheet(
            self.engine,
            recv_interval=self.limits.recv_interval,
            plans=self._plans,
            launches=sum(call.count for call in self.step.cycle.sampled(requests=1)),
        )

    @property
    def _plans(self) -> tuple[str, ...]:
        """Constants of what the host plans between the lengths of a step and its first kernel."""
        if not self.host_length_sync or self.backend not in self.engine.attention.plans_on_host:
            return ()
        return ("attention_plan", "draft_plan") if self.method.sequential else ("attention_plan",)

    @cached_property
    def step(self) -> StepModel:
        kind = "spec" if self.speculative else "plain"
        s = self.scenario
        return StepModel(
            cycle=Cycle(
                method=self.method,
                model=self.model,
                tp=self.tp,
                block=self.block,
                steps=(s.steps or 0) if s.topk > 1 else 0,
                topk=s.topk,
                drafter=self.drafter,
                window=self.window,
                chain_kernels=round(self.engine["chain_step_kernels"]),
                precision=self.precision,
                gathers_logits=self.engine.defaults.logits.gathered,
                **own_kernels(
                    s, self.engine, self.backend, self.precision, self.limits, self.model
                ),
                replays_states=s.linear_replayssm_spec,
                sampling=Sampling.of(s),
            ),
            cost=CostModel(
                self.device,
                self.engine,
                self.tables,
                backend=self.backend,
                lender=self.lender,
                measured=self.measured,
            ),
            graph_sizes=self.engine.graph_sizes[kind],
            graph_max_bs=self.graph_max_bs,
            max_ctx=(s.isl or 0) + 2 * s.max_new_tokens,
            v1=s.engine_mode == "v1",
            prefill_sizes=self._prefill_sizes,
        ).with_known_prices()

    @property
    def _prefill_sizes(self) -> tuple[int, ...]:
        """Tokens of the captured prefills: none is larger than a chunk."""
        most = self.engine.prefill.most_tokens(
            self.scenario.cuda_graph_backend_prefill,
            hybrid=bool(self.model.gdn_layers),
            speculative=self.speculative,
            latent=self.backend if self.model.latent_layers else None,
            chunk=self.limits.chunked_prefill_size,
        )
        return tuple(n for n in self.engine.graph_sizes["prefill"] if n <= most)

    @cached_property
    def widths(self) -> WidthSteps:
        """Prices of every verify width up to the block, for policies."""
        return WidthSteps(self.step)

    def under(self, policy: Policy | None, limits: Limits | None = None) -> "Setup":
        """Return the same server under another policy, or other limits; prices are shared."""
        other = replace(self, policy=policy, limits=limits or self.limits)
        other.__dict__.update(host=self.host, step=self.step, widths=self.widths)
        return other


def resolve(
    scenario: Scenario,
    *,
    engine: EngineSheet | None = None,
    tables: OpTables | None = None,
    calibration: Calibration | None = None,
    dataset: Dataset | None = None,
    expectation: Expectation | None = None,
) -> Setup:
    """Load and check everything a scenario names.

    Parameters
    ----------
    engine, tables, dataset
        Stand in for the sheets that the scenario names: changed constants, tables at hand,
        other lengths.
    calibration
        With an ``engine`` its constants stand, and this says how certain they are, if anything.
    expectation
        Stands in for the acceptance that is given or published.

    Raises
    ------
    UsageError, InfeasibleError, MissingProfileError
        In the words of :mod:`dflash_sim.profiles.errors`.
    """
    s = scenario
    measured = load_measured(s.gpu) if is_profile(s.gpu) else None
    device = measured.as_device() if measured else load_device(s.gpu)
    given = engine is not None
    if engine is None:
        engine = load_engine(s.engine)
        calibration = calibration or load_calibration(s.calibration, engine)
        if calibration is not None and s.build is None and "build" in calibration.about:
            s = _as_measured(s, calibration.about)
            engine = load_engine(s.engine)
    model = served(s, load_model(s.model), device).dealt(s.ep_size)
    check_context(s, model)
    backend = backend_of(s, device, engine, model)
    method = s.speculation
    drafter = drafter_for(method, s.model, s.draft_model, accepts=s.acceptance is not None)
    precision = precision_for(s, device, engine, model, backend=backend, drafter=drafter)
    server = server_of(s, engine, device, backend, model, measured, precision)
    if measured is None and not engine.is_on:
        engine = engine.on(device.arch, device.name, device.host)
    if calibration is not None and not given:
        engine = calibration.applied(engine, server)
    block = verify_rows(s, drafter)
    node = _node(device, measured)
    tp, num_gpus = parallel(s, device, engine, model, node)
    check_tp(model, tp)
    if drafter is not None:
        check_pair(drafter, model)
    if isinstance(drafter, DrafterShape):
        check_tp(drafter, tp)
    check_drafts(s, engine, backend, drafter, model)
    chunk = chunk_of(s, device, engine)
    launch = launch_of(s, engine, model, tp=tp, block=block, backend=backend)
    launched = as_launched(s, launch)
    draft = method.caches(model, drafter, tp, precision)
    share = share_of(s, device, engine, model, tp)
    try:
        memory = plan_memory(
            device=device,
            engine=engine,
            model=model,
            launch=launch,
            draft=draft,
            precision=precision,
            share=share,
            in_node=node.num_gpus,
        )
    except InfeasibleError as error:
        weights = model.weight_bytes(TP_SIZES[-1], precision) + draft.weight_bytes
        needed = weights / share.mem_fraction + engine["reserved_memory"]
        msg = f"{error}{roomier(device, needed, ranks=TP_SIZES[-1])}"
        raise InfeasibleError(msg) from None
    unit = engine.defaults.mamba_track_interval if model.gdn_layers else launch.page_size
    unit *= launched.radix_cache
    limits = limits_of(launched, engine, memory, chunk, launch.page_size, block, unit)
    tables = tables or find_tables(device)
    parts = parts_of(s.dataset)
    return Setup(
        scenario=launched,
        device=device,
        node=node,
        engine=engine,
        model=model,
        drafter=drafter,
        tp=tp,
        num_gpus=num_gpus,
        block=block,
        window=s.window,
        backend=backend,
        memory=memory,
        limits=limits,
        graph_max_bs=largest_graph(s, device, engine, tp),
        share=share,
        precision=precision,
        tables=tables,
        lender=load_device(tables.device) if tables and tables.device != device.name else None,
        warnings=(
            *context_cautions(s, model),
            *drafter_cautions(drafter),
            *cautions(
                s,
                memory,
                device,
                engine,
                calibration,
                measured=measured,
                model=model,
                tp=tp,
                server=server,
                backend=backend,
                block=block,
            ),
        ),
        calibration=calibration,
        policy=parse_policy(s.policy, block=block),
        measured=measured,
        dataset=dataset or (parts[0].dataset if len(parts) == 1 else None),
        parts=parts if dataset is None and len(parts) > 1 else (),
        given_expectation=expectation if method.speculative else None,
        server=server,
    )


def server_of(
    s: Scenario,
    engine: EngineSheet,
    device: Device,
    backend: str,
    model: ModelShape,
    measured: MeasuredProfile | None,
    precision: Precision,
) -> Server:
    """Name the levels of a scenario's server that differ from the home of the engine's constants.

    A measured profile has the times of its own GPU: neither architecture nor GPU is uncertain.
    """
    known = engine.is_home(s.build) or (s.build and match_engine(s.build) is not None)
    return Server.of(
        engine.fit.home,
        release=engine.name,
        build=None if known else s.build,
        arch=None if measured else device.arch,
        gpu=None if measured else device.name,
        backend=None if measured else backend,
        precision=precision.quantised(mtp=s.speculation.network == "mtp-layer"),
        server=device.name,
        deployment=f"{device.name}/{model.name}",
    )


def _as_measured(s: Scenario, about: Mapping[str, Any]) -> Scenario:
    """The question to the server of a calibration's rows; of a guessed release if it can run it."""
    given = s.model_dump(exclude_unset=True) | {"build": about["build"]}
    guess = {"engine": about["release"]} if "release" in about else {}
    with suppress(UsageError):
        return Scenario.parse(**(guess | given))
    return Scenario.parse(**given)


def _node(device: Device, measured: MeasuredProfile | None) -> Node:
    if measured is not None and measured.path.stem == device.name:
        return measured.as_node(device)
    return default_node(device.name)


def find_tables(device: Device) -> OpTables | None:
    """Operator times of a GPU, else of the one that its sheet names to stand in."""
    own = OpTables.load(device.name)
    return own or (OpTables.load(device.tables_from) if device.tables_from else None)
