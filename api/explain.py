"""``explain`` and ``trace``: why an answer is what it is, and a timeline of its steps."""

from pathlib import Path
from typing import Any, Unpack

from dflash_sim.api.question import Config, File, Question, asked, folders, takes_question, whole
from dflash_sim.api.result import Explanation
from dflash_sim.studies.ask.question import only_scenario
from dflash_sim.studies.show.files import check_writable, write_whole
from dflash_sim.studies.trace.simulated import simulated_trace


@takes_question
def explain(
    config: Config | None = None, *, progress: bool = False, **question: Unpack[Question]
) -> Explanation:
    """Say why: from plain decoding to the answer, where its time goes, what would change it.

    It takes ten times as long as :func:`predict`.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    progress
        Tell on stderr how far it is.
    **question
        One scenario, as for :func:`predict`.

    Raises
    ------
    UsageError, InfeasibleError, MissingProfileError
        As :func:`predict` does; several values of a field are refused.

    Examples
    --------
    >>> why = ds.explain(gpu="b200", block=16, conc=32)
    >>> why.waterfall, why.elasticities, why.ops
    """
    found = asked(config, question)
    return Explanation.of(
        only_scenario(found),
        progress=progress,
        given=tuple(found),
        folders=tuple(folders(question.get("profiles"))),
    )


@takes_question
def trace(
    config: Config | None = None,
    *,
    iterations: int = 32,
    skip: int = 0,
    output: File | None = None,
    **question: Unpack[Question],
) -> dict[str, Any] | Path:
    """Return a timeline of simulated steps, for ui.perfetto.dev, or write it to a file.

    Parameters
    ----------
    config
        Where to start from: a dict of fields, a scenario, or the path of a .yaml file.
    iterations, skip
        Engine iterations to show, and to leave out before them.
    output
        The file, written whole or not at all.
    **question
        One scenario, as for :func:`predict`.

    Returns
    -------
    dict or pathlib.Path
        The trace events, or the file that holds them.

    Examples
    --------
    >>> ds.trace(gpu="b200", conc=8, iterations=16, output="step.json")
    """
    import json

    path = None if output is None else Path(output)
    if path is not None:
        check_writable(path)
    iterations, skip = whole("iterations", iterations), whole("skip", skip, least=0)
    found = simulated_trace(
        only_scenario(asked(config, question)), iterations=iterations, skip=skip
    )
    if path is not None:
        write_whole(path, found.to_json())
        return path
    events: dict[str, Any] = json.loads(found.to_json())
    return events
