"""``carried``: the most that GPUs one owns can carry, ``plan --gpus N --maximise``."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rich.console import RenderableType

from dflash_sim.api.question import Config, File, Question, asked, takes_question
from dflash_sim.api.show import Paged
from dflash_sim.api.spoken import spoken
from dflash_sim.calibrate.launches.router import router_of_launch
from dflash_sim.simulator.fleet.routers import ROUTERS
from dflash_sim.studies.plan.deploy import compose, kubernetes
from dflash_sim.studies.plan.most import DURATION_S, Most, most
from dflash_sim.studies.plan.most_page import MostPage, rows, said, servers_of, to_json
from dflash_sim.studies.plan.question import numbers_of, owned
from dflash_sim.studies.show.files import check_writable

if TYPE_CHECKING:
    import pandas as pd


class Carried(Paged):
    """What each kind of server carries on the GPUs there are, most first."""

    def __init__(self, found: Most) -> None:
        self.found = found

    @property
    def verdict(self) -> list[str]:
        """What is carried, by what, and how much more that is than the next, in sentences."""
        return said(self.found)

    @cached_property
    def candidates(self) -> "pd.DataFrame":
        """One row for each server that was tried."""
        from dflash_sim.api.frames import table

        return table(rows(self.found))

    @spoken
    def report(self, path: File) -> Path:
        """Write the answer as one HTML page, and return its path."""
        from dflash_sim.studies.plan.most_report import write_report

        check_writable(Path(path))
        write_report(Path(path), self.found)
        return Path(path)

    def compose(self) -> str:
        """Return a Docker Compose file of the servers that carry most."""
        return compose(servers_of(self.found))

    def kubernetes(self) -> str:
        """Return Kubernetes objects of the servers that carry most."""
        return kubernetes(servers_of(self.found))

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as ``--format json`` prints it."""
        return to_json(self.found)

    def _page(self) -> RenderableType:
        return MostPage(self.found)

    def __repr__(self) -> str:
        return f"<Carried: {self.verdict[0]}>"


@takes_question
def carried(
    config: Config | None = None,
    *,
    gpus: int,
    maximise: str = "rate",
    duration: float | None = None,
    ttft: float | None = None,
    tpot: float | None = None,
    e2e: float | None = None,
    percentile: float | None = None,
    confidence: float | None = None,
    router: str | None = None,
    price: Mapping[str, float] | None = None,
    jobs: int = 1,
    **question: Unpack[Question],
) -> Carried:
    """Find the most requests a second, or users in flight, that GPUs one owns can carry.

    Lists of fields are candidates, as for :func:`plan`.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    gpus
        How many there are; every candidate is as many servers as they make.
    maximise
        ``rate`` (requests/s) or ``users`` (requests in flight).
    duration
        Of arrivals that a rate is tried with [s]; 60 if left out.
    ttft, tpot, e2e
        Limits on the time to the first token, per output token, and of the whole answer [ms].
    percentile
        Percent of the requests that keep each limit; 95 if left out.
    confidence
        Over what is uncertain of the prediction [1]; 0.9 if left out.
    router
        ``round-robin``, ``least-loaded`` or ``cache-aware``; if left out that of ``from_launch``,
        else ``round-robin``.
    price
        What you pay for a GPU, in place of list prices [USD/h], such as ``{"b200": 4.5}``.
    jobs
        Processes.
    **question
        As for :func:`predict`.

    Raises
    ------
    UsageError
        Something that is not to be maximised, or a rate, which is what is looked for.
    InfeasibleError
        No candidate keeps the limits, or none is made of so few GPUs.

    Examples
    --------
    >>> ds.carried(gpus=16, maximise="rate", model="qwen3-8b", gpu="b200", tpot=10).verdict
    """
    own = numbers_of(
        ttft=ttft, tpot=tpot, e2e=e2e, percentile=percentile, confidence=confidence,
        duration=duration, jobs=jobs, gpus=gpus,
    )  # fmt: skip
    made = owned(
        asked(config, question, planned=True),
        maximise,
        caps=None,
        trace=None,
        time_unit=None,
        router=router or router_of_launch(question.get("from_launch")) or ROUTERS[0],
        prices=price or {},
        **own.of_question(),
    )
    found = most(
        made,
        gpus=own.whole("gpus") or 1,
        what=maximise,
        duration_s=own.values.get("duration", DURATION_S),
        jobs=own.whole("jobs") or 1,
    )
    return Carried(found)
