"""``plan`` and ``tune``: the smallest fleet that keeps its latencies, and the best block."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rich.console import RenderableType
from rich.text import Text

from dflash_sim.api.question import Config, File, Question, asked, takes_question
from dflash_sim.api.show import Paged, counted
from dflash_sim.api.spoken import spoken
from dflash_sim.calibrate.launches.router import router_of_launch
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.fleet.routers import ROUTERS
from dflash_sim.studies.plan.deploy import compose, fewest, kubernetes
from dflash_sim.studies.plan.over_long import CHOICES as OVER_LONG
from dflash_sim.studies.plan.page import PlanPage
from dflash_sim.studies.plan.question import numbers_of, tunable
from dflash_sim.studies.plan.question import question as plan_question
from dflash_sim.studies.plan.rows import fleet_json, plan_rows, to_json
from dflash_sim.studies.plan.search import Plan as Found
from dflash_sim.studies.plan.search import plan as answer
from dflash_sim.studies.plan.search import steps
from dflash_sim.studies.plan.tune import Tuned, tune_block
from dflash_sim.studies.plan.verdict import roles, verdict, warnings
from dflash_sim.studies.show.files import check_writable, write_whole

if TYPE_CHECKING:
    import pandas as pd


class Plan(Paged):
    """The fleets that meet an objective."""

    def __init__(self, found: Found) -> None:
        self.found = found

    @cached_property
    def fleets(self) -> "pd.DataFrame":
        """The best fleets, each once; ``role`` says what they are best at."""
        from dflash_sim.api.frames import table

        return table([{"role": role} | fleet_json(fleet) for role, fleet in roles(self.found)])

    @cached_property
    def candidates(self) -> "pd.DataFrame":
        """Every server that was tried, with the fleet it needs or the reason why it is out."""
        from dflash_sim.api.frames import table

        return table(plan_rows(self.found))

    @property
    def verdict(self) -> list[str]:
        """What to rent, how sure that is, and what speculation saves, in sentences."""
        return verdict(self.found)

    @property
    def warnings(self) -> list[str]:
        """Warnings to keep in mind."""
        return warnings(self.found)

    def compose(self) -> str:
        """Return a Docker Compose file of the fleet with the fewest GPUs."""
        return compose(fewest(self.found))

    def kubernetes(self) -> str:
        """Return Kubernetes objects of the fleet with the fewest GPUs."""
        return kubernetes(fewest(self.found))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as ``--format json`` prints it."""
        return to_json(self.found)

    @spoken
    def report(self, path: File) -> Path:
        """Write the plan as one HTML page, and return its path."""
        from dflash_sim.studies.plan.report import write_report

        check_writable(Path(path))
        write_report(Path(path), self.found)
        return Path(path)

    def _page(self) -> RenderableType:
        return PlanPage(self.found)

    def __repr__(self) -> str:
        f = self.found.fewest
        what = f"{f.replicas} x {f.setup.device.name} TP {f.setup.tp} {f.setup.scenario.method}"
        return f"<Plan: {f.gpus} GPUs, {what}; {len(self.found.surveys)} candidates>"


@takes_question
def plan(
    config: Config | None = None,
    *,
    trace: File | None = None,
    time_unit: str | None = None,
    over_long: str = OVER_LONG[0],
    busiest: float | None = None,
    duration: float | None = None,
    ttft: float | None = None,
    tpot: float | None = None,
    e2e: float | None = None,
    percentile: float | None = None,
    confidence: float | None = None,
    router: str | None = None,
    max_gpus: int | None = None,
    price: Mapping[str, float] | None = None,
    hours: str | None = None,
    compare: tuple[str, str] | None = None,
    jobs: int = 1,
    progress: bool = False,
    **question: Unpack[Question],
) -> Plan:
    """Find the fewest GPUs, and the cheapest, that keep latencies for a rate or a trace.

    Lists of ``gpu``, ``tp``, ``method``, ``block``, ``steps`` and ``max_running_requests`` are
    candidates; each is a server, and fleets of it stand behind a router. By default b200 and h200,
    TP 1 to 8, plain decoding and DFlash.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    trace
        Requests of a file, ``FILE`` or ``FILE:FORMAT``, in place of ``rate``.
    time_unit
        Of the trace's times: ``s``, ``ms``, ``us`` or ``ns``.
    over_long
        What becomes of prompts longer than the model's context: ``refuse`` them with an error,
        ``drop`` them as a server does, or ``truncate`` them.
    busiest
        Only the busiest seconds of the trace [s].
    duration
        Of arrivals at ``rate`` [s]; 600 if left out.
    ttft, tpot, e2e
        Limits on the time to the first token, per output token, and of the whole answer [ms].
    percentile
        Percent of the requests that keep each limit; 95 if left out.
    confidence
        Over what is uncertain of the prediction [1]; 0.9 if left out.
    router
        ``round-robin``, ``least-loaded`` or ``cache-aware``; if left out that of ``from_launch``,
        else ``round-robin``.
    max_gpus
        Largest fleet; 512 if left out.
    price
        What you pay for a GPU, in place of list prices [USD/h], such as ``{"b200": 4.5}``.
    hours
        Shares of ``rate`` by hour of the day, such as ``"0-7:0.2,8-19:1,20-23:0.5"``.
    compare
        Two candidates to set side by side, such as ``("b200/none", "b200/dflash")``.
    jobs
        Processes.
    progress
        Tell on stderr how far it is.
    **question
        As for :func:`predict`.

    Raises
    ------
    UsageError
        No demand or no limit is given, or something that a plan does not take.
    InfeasibleError
        No fleet meets the objective; it says what comes closest.

    Examples
    --------
    >>> ds.plan(model="qwen3-8b", rate=20, isl=1000, osl=400, tpot=15, ttft=500).fleets
    """
    own = numbers_of(
        ttft=ttft, tpot=tpot, e2e=e2e, percentile=percentile, confidence=confidence,
        busiest=busiest, duration=duration, max_gpus=max_gpus, jobs=jobs,
    )  # fmt: skip
    made = plan_question(
        asked(config, question, planned=True),
        caps=None,
        trace=None if trace is None else str(trace),
        time_unit=time_unit,
        over_long=over_long,
        router=router or router_of_launch(question.get("from_launch")) or ROUTERS[0],
        hours=hours,
        prices=price or {},
        compare=compare or (),
        **own.of_question(),
    )
    with counted(steps(made), show=progress, what="steps") as advance:
        return Plan(answer(made, jobs=own.whole("jobs") or 1, on_step=advance))


class Tuning(Paged):
    """The verify width that serves most tokens at each batch size."""

    def __init__(self, found: Tuned) -> None:
        self.found = found

    @property
    def throughput(self) -> "pd.DataFrame":
        """Output tokens per second of all requests, by batch size (rows) and block (columns)."""
        import pandas as pd

        found = self.found
        batches = pd.Index(found.batches, name="batch")
        return pd.DataFrame(found.tok_s, batches, pd.Index(found.widths, name="block"))

    @property
    def chosen(self) -> "pd.Series[int]":
        """The block to take at each batch size: it changes for a clear gain only."""
        import pandas as pd

        found = pd.Series(self.found.chosen, name="block")
        return found.rename_axis("batch")

    def as_vllm(self) -> list[list[int]]:
        """Return vLLM's ``num_speculative_tokens_per_batch_size``: from batch, to batch, drafts."""
        return self.found.as_vllm()

    def as_sglang_json(self) -> str:
        """Return a file for SGLang's ``--speculative-dspark-sps-table-path``."""
        return self.found.as_sglang_json()

    @spoken
    def save(self, path: File) -> Path:
        """Write SGLang's cost table, and return its path."""
        write_whole(Path(path), self.as_sglang_json() + "\n")
        return Path(path)

    def _page(self) -> RenderableType:
        return Text("\n".join(filter(None, (self.found.table().text(), self.found.ends))))

    def __repr__(self) -> str:
        rows = ", ".join(f"{a}-{b}: block {drafts + 1}" for a, b, drafts in self.as_vllm())
        return f"<Tuning: batch {rows}>"


@takes_question
def tune(
    config: Config | None = None, *, what: str = "block", **question: Unpack[Question]
) -> Tuning:
    """Find the block that serves most tokens at each batch size: ``plan --tune block``.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    what
        ``block``; there is nothing else to tune.
    **question
        One server, as for :func:`predict`; the values of ``block`` are those to try.

    Examples
    --------
    >>> ds.tune(model="qwen3-8b", gpu="b200", tp=1).chosen
    """
    if what != "block":
        msg = f"what {what!r}: the only thing to tune is block."
        raise UsageError(msg)
    scenario, blocks = tunable(asked(config, question))
    return Tuning(tune_block(scenario, blocks=blocks))
