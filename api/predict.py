"""``predict``: one scenario as a result, several as a data frame; ``scenario`` and ``config``."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from dflash_sim.api.question import (
    Config,
    Question,
    asked,
    folders,
    several,
    takes_question,
    whole,
)
from dflash_sim.api.result import Result
from dflash_sim.api.show import counted
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.answers import Answer, answers, check_options
from dflash_sim.studies.ask.prices import checked_prices
from dflash_sim.studies.ask.question import as_yaml, left_out, only_scenario, scenarios
from dflash_sim.studies.predict.table import answer_row

if TYPE_CHECKING:
    import pandas as pd


@takes_question
def predict(
    config: Config | None = None,
    *,
    simulator: str = "auto",
    baseline: bool = True,
    interval: bool = True,
    price: Mapping[str, float] | None = None,
    tag: str | None = None,
    jobs: int = 1,
    progress: bool = False,
    **question: Unpack[Question],
) -> "Result | pd.DataFrame":
    """Predict throughput and latencies; with nothing given, of the launch on 8 x B200.

    Keywords are the fields of a scenario, by the names and with the defaults of ``dflash-sim
    predict``; SGLang's names work too. A field takes one value, or several: a list, a range, an
    array, or text such as ``"1-32:x2"``. Several values make a data frame with a row for each
    combination, in the order of the command line, also a list of one value. It has the columns of
    the result schema, each interval as ``<name>_low`` and ``<name>_high``.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    simulator
        ``auto``, ``leap`` (fast) or ``event``.
    baseline
        Also predict plain decoding, for the speed-up.
    interval
        Also the 90 % intervals.
    price
        What you pay for a GPU, in place of list prices [USD/h], such as ``{"b200": 4.5}``.
    tag
        Label of the rows.
    jobs
        Processes for several scenarios.
    progress
        Tell on stderr how far it is.
    **question
        Fields of a scenario; ``preset``, ``from_launch`` (a launch command) and ``profiles``
        (folders of sheets to be searched first).

    Returns
    -------
    Result or pandas.DataFrame
        A data frame says in its column ``error`` why a scenario has no answer.

    Raises
    ------
    UsageError
        A keyword or a value is none that is known.
    InfeasibleError, MissingProfileError
        The one scenario does not fit, or nothing is known about it.

    Examples
    --------
    >>> r = ds.predict(gpu="b200", block=16, conc=32)
    >>> r.output_throughput, r.speedup, r.interval("output_throughput")
    >>> df = ds.predict(gpu=["b200", "h200"], conc=[1, 8, 32])
    >>> df[["gpu", "max_concurrency", "output_throughput"]]
    """
    check_options(simulator)
    found = asked(config, question)
    points = scenarios(found)
    prices = checked_prices(price or {}, (point.gpu for point in points))
    for text in left_out({name: given.value for name, given in found.items()}):
        warnings.warn(text, stacklevel=3)
    with counted(sum(point.runs for point in points), show=progress) as advance:
        work = answers(
            points,
            simulator=simulator,
            with_baseline=baseline,
            with_interval=interval,
            jobs=whole("jobs", jobs),
            prices=prices,
            on_run=advance,
        )
        answered = list(work)
    if len(answered) > 1 or several(question):
        from dflash_sim.api.frames import frame

        return frame([answer_row(answer, tag) for answer in answered])
    return _only(
        answered[0], tag=tag, given=tuple(found), folders=tuple(folders(question.get("profiles")))
    )


def _only(answer: Answer, **about: Any) -> Result:
    if answer.error is not None:
        raise answer.error
    assert answer.result is not None
    return Result(answer.result, price=answer.price, **about)


@takes_question
def scenario(config: Config | None = None, **question: Unpack[Question]) -> Scenario:
    """Return the scenario of a question, not answered; every function takes it as ``config``.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    **question
        As for :func:`predict`.

    Raises
    ------
    UsageError
        A keyword or a value is none that is known, or there are several scenarios.

    Examples
    --------
    >>> s = ds.scenario(from_launch="python -m sglang.launch_server --model-path Qwen/Qwen3-8B")
    >>> ds.predict(s, conc=[1, 8])
    """
    return only_scenario(asked(config, question))


@takes_question
def config(config: Config | None = None, **question: Unpack[Question]) -> str:
    """Return the merged question as YAML, with the origin of every value: ``--print-config``.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    **question
        As for :func:`predict`.
    """
    found = asked(config, question)
    scenarios(found)
    return as_yaml(found)
