"""The short page of one result."""

import pytest

from dflash_sim.studies.predict.brief import accept_length


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
