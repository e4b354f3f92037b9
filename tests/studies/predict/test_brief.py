"""The short page of one result."""

import pytest

from dflash_sim.profiles.sheets import PriceRange
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.predict.brief import accept_length, brief
from dflash_sim.studies.show.terminal import as_page


@pytest.mark.parametrize(
    ("request_mean", "cycle_mean", "said"),
    [
        (5.0, 5.1, "5.00 tokens per verify step"),
        (5.0, 4.86, "5.00 tokens per verify step"),
        (5.0, 4.8, "5.00 tokens per verify step as a mean over requests, 4.80 over all steps"),
        (5.0, 5.2, "5.00 tokens per verify step as a mean over requests, 5.20 over all steps"),
    ],
)
def test_both_means_are_told_where_they_differ(
    request_mean: float, cycle_mean: float, said: str
) -> None:
    """A mixture's requests differ: the server's log says another length than the model card."""
    values = {"accept_length": request_mean, "accept_length_cycle": cycle_mean}
    assert accept_length(values) == said


def test_requests_that_there_are_not_do_not_wait() -> None:
    """Eight requests are eight in flight at the most, whatever was to be."""
    asked = {"model": "qwen3-8b", "gpu": "h200", "isl": 100, "osl": 20, "acceptance": "al:4"}
    scenario = Scenario.parse(**asked, conc=64, num_prompts=8, runs=1)
    result = predict(scenario, with_baseline=False, with_interval=False)
    page = " ".join(as_page(brief(result), to_file=True).split())
    assert "limited by the 8 requests that there are" in page
    assert "run at once" not in page
    assert "there are 8 requests, of which 64 were to be in flight" in page
    assert "USD" not in page
    price = PriceRange(2.0, 2.0, 2.0, "as given")
    usd = 2.0 / (result.values["output_throughput"] * 3600 / 1e6)
    paid = " ".join(as_page(brief(result, price=price), to_file=True).split())
    assert f"Cost {usd:.2f} USD per million output tokens at 2 USD/h" in paid


@pytest.mark.parametrize(("isl", "conc", "words"), [
    (30_000, 30, "limited by memory: "), (300, 30, "limited by the 30 in flight"),
    (300, 60, "at most 48 of the"),
])  # fmt: skip
def test_what_limits_a_batch_is_what_binds_first(isl: int, conc: int, words: str) -> None:
    """Memory, where it holds fewer requests of this length than the cap and the load allow."""
    asked = {"model": "qwen3-8b", "gpu": "h200", "isl": isl, "osl": 40, "acceptance": "al:4"}
    scenario = Scenario.parse(**asked, conc=conc, num_prompts=conc, runs=1)
    result = predict(scenario, with_baseline=False, with_interval=False)
    holds = int(result.setup.memory.kv_tokens / (isl + 40))
    page = " ".join(as_page(brief(result), to_file=True).split())
    assert words in page
    assert (f"hold {holds} of this length" in page) == (holds < min(conc, 48))
