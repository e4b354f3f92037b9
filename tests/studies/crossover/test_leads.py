"""Where one method overtakes another: what both share cancels, what each has alone does not."""

from functools import partial
from math import exp, log, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dflash_sim.profiles.releases.calibration import Parameter
from dflash_sim.simulator.intervals import Sensitivity, misfit, unmodelled
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.ask.question import ask
from dflash_sim.studies.crossover.ends import Spread, together
from dflash_sim.studies.crossover.leads import answer, leads_of
from dflash_sim.studies.crossover.page import overtaken
from dflash_sim.studies.crossover.question import Question, question
from dflash_sim.studies.crossover.rows import to_json
from dflash_sim.studies.crossover.search import Crossover, curve_of

AT = np.log([1.0, 64.0])


def sensitivity(slopes: dict[str, float], covariance: Any) -> Sensitivity:
    parameters = tuple(Parameter("rejection", name, "linear", 0.0, 1.0) for name in slopes)
    by_name = {f"rejection:{name}": slope for name, slope in slopes.items()}
    return Sensitivity((by_name,) * len(METRICS), parameters, np.array(covariance))


def test_what_each_has_alone_goes_together_by_what_they_share() -> None:
    """cov(u, v) = cov(u, s) cov(s, v) / var(s): all marginals stay, and it is a covariance."""
    one = sensitivity({"u": 1.0, "s": 1.0}, [[0.5, 0.3], [0.3, 0.4]])
    other = sensitivity({"s": 1.0, "v": 1.0}, [[0.4, -0.2], [-0.2, 0.6]])
    names, found = together(one, other)
    assert [name.removeprefix("rejection:") for name in names] == ["u", "s", "v"]
    want = [[0.5, 0.3, 0.3 * -0.2 / 0.4], [0.3, 0.4, -0.2], [0.3 * -0.2 / 0.4, -0.2, 0.6]]
    assert found == pytest.approx(np.array(want))
    assert np.linalg.eigvalsh(found).min() > 0
    alone = sensitivity({"v": 1.0}, [[0.6]])
    assert together(one, alone)[1] == pytest.approx(
        np.array([[0.5, 0.3, 0], [0.3, 0.4, 0], [0, 0, 0.6]])
    )
    assert together(one, sensitivity({"s": 1.0}, [[0.4]]))[1] is one.covariance


def test_a_gain_over_a_method_has_the_errors_of_both() -> None:
    """Var(a - b) of two accept lengths; the constant that both hang on alike is not in it."""
    one, other = (
        sensitivity({"shared": 2.0, who: slope}, [[9.0, 0.0], [0.0, sd**2]])
        for who, slope, sd in (("one", 1.0, 0.3), ("other", 0.5, 0.8))
    )
    found = Spread.between(AT, [one, one], [other, other], offset_variance=0.01)
    assert found.sd(AT) == pytest.approx(sqrt(0.3**2 + (0.5 * 0.8) ** 2 + 0.01))
    back = Spread.between(AT, [other, other], [one, one], offset_variance=0.01)
    assert back.sd(AT) == pytest.approx(found.sd(AT))
    same = Spread.between(AT, [one, one], [one, one], offset_variance=0.0)
    assert same.sd(AT) == pytest.approx(0.0, abs=1e-9)


def asked(values: str) -> Question:
    server = {"gpu": "h200", "model": "qwen3.5-27b"}
    load = {"dataset": "mt-bench", "num_prompts": "24", "max_new_tokens": "64"}
    methods = {"method": "mtp,dflash", "steps": "3", "block": "16"}
    fields, _ = ask({**server, **load, **methods}, preset=None, from_launch=None)
    return question(fields, over="conc", values=values)


@pytest.fixture(scope="module")
def made() -> Question:
    return asked("1-64:x2")


def straight(made: Question, lines: list[tuple[float, float]], sd: float) -> Crossover:
    """An answer whose gains are straight lines in log requests, each with an error of its own."""

    def server(setup: Any, name: str, line: tuple[float, float]) -> Any:
        speed = {v: 100 * exp(line[0] - line[1] * log(v)) for v in range(1, 65)}
        return SimpleNamespace(
            axis=made.axis,
            base=setup,
            title=name,
            setup=partial(made.axis.setup, setup),
            values=lambda v: {"output_throughput": speed[int(v)]},
            sensitivity=lambda _: sensitivity({"shared": 1.0, name: 1.0}, np.diag([1.0, sd**2])),
        )

    plain = server(made.plain, "plain decoding", (0.0, 0.0))
    servers = [
        server(setup, name, line)
        for setup, name, line in zip(made.candidates, ("early", "late"), lines, strict=True)
    ]
    return Crossover(
        made, tuple(curve_of(s, plain, made.values, interval=False) for s in servers), (), True
    )


def test_the_interval_is_that_of_two_straight_lines(made: Question) -> None:
    """Gains a - b x and c - d x cross at (a - c) / (b - d), with an error sd over that slope."""
    found = straight(made, [(1.6, 0.4), (0.9, 0.1)], sd=0.1)
    (lead,) = leads_of(found)
    assert (lead.title, lead.plain.title) == ("early", "late")
    own = lead.setup
    sd = sqrt(2 * 0.1**2 + unmodelled(own) + misfit(own))
    middle = 0.7 / 0.3
    assert log(lead.until.value) == pytest.approx(middle, abs=0.05)
    assert log(lead.until.low) == pytest.approx(middle - 1.645 * sd / 0.3, abs=0.1)
    assert log(lead.until.high) == pytest.approx(middle + 1.645 * sd / 0.3, abs=0.1)
    told = Crossover(made, found.curves, leads=(lead,))
    (line,) = overtaken(told)
    assert line.startswith("early is faster than late up to 10 requests at once (90 % interval ")


def test_wider_errors_are_wider_and_far_ones_open(made: Question) -> None:
    near, far = (
        next(leads_of(straight(made, [(1.6, 0.4), (0.9, 0.1)], sd=sd))) for sd in (0.05, 1.0)
    )
    assert far.until.low < near.until.low < near.until.value
    assert far.until.low == 0.0
    assert near.until.value < near.until.high < far.until.high == np.inf


def test_a_method_that_leads_all_along_has_no_crossing(made: Question) -> None:
    assert not list(leads_of(straight(made, [(1.6, 0.1), (0.9, 0.1)], sd=0.1)))
    plain_between = straight(made, [(0.5, 0.4), (-1.0, -0.4)], sd=0.1)
    assert not list(leads_of(plain_between)), "plain decoding is between the two"


def test_an_answer_has_the_crossings_between_methods() -> None:
    found = answer(asked("1,8,32"))
    (lead,), (row,) = found.leads, to_json(found)["leads"]
    assert lead.sd.size == len(lead.values)
    assert 1 < lead.until.low < lead.until.value < lead.until.high < 32
    assert (row["method"], row["than_method"]) == ("dflash", "mtp")
    assert row["until_ci90"] == pytest.approx([lead.until.low, lead.until.high])
