"""Sampled verification keeps the target's distribution; random numbers are what they should be."""

from collections import Counter
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")
stats = pytest.importorskip("scipy.stats")

from real_engine import SPAN, dflash2, domino, drafter, dspark, knowing, serve_inline, setup, target  # noqa: E402
from tiny_networks import Runner  # noqa: E402

from dflash_sim.kernels.layers.spec import read_target  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import ALONE  # noqa: E402
from dflash_sim.kernels.reference.accept import Odds  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.worker.judges import uniforms  # noqa: E402

PROMPT, TEMPERATURE = (3, 1, 4, 1, 5), 0.7
SMALL = 16  # vocabulary
COUNT = 4000
CERTAIN = 1e-6
# Those of the last two draw their proposals themselves, and are not told them.
DRAFTERS = {"dflash": drafter, "dflash2": dflash2, "dspark": dspark, "domino": domino}
TAPS = {"target_layer_ids": [0, 2], "mask_token_id": SMALL - 1}


@cache
def chances() -> torch.Tensor:
    """The exact joint distribution of the second and the third token [V, V]."""
    network = target(vocab_size=SMALL)
    assert network.source is not None
    spec = read_target(network.config, network.name)
    pairs = SMALL * SMALL
    runner = Runner(
        TargetModel(spec, network.source, ALONE, tokens=SPAN),
        ALONE,
        requests=pairs,
        tokens=16,
        rows=1,
    )
    logits = [runner.extend(torch.tensor([PROMPT]).expand(pairs, -1))[:, -1]]
    each = torch.arange(SMALL)
    logits.append(runner.extend(each.repeat_interleave(SMALL)[:, None])[:, 0])
    logits.append(runner.extend(each.repeat(SMALL)[:, None])[:, 0])
    first, second, third = (torch.softmax(x.double() / TEMPERATURE, -1) for x in logits)
    size = (SMALL, SMALL, SMALL)
    joint = first[0].view(-1, 1, 1) * second.view(size)[:, :1].transpose(1, 2) * third.view(size)
    assert joint.sum() == pytest.approx(1)
    return joint.sum(0)


def drawn(method: str, **changes: Any) -> Counter[tuple[int, int]]:
    """How often each pair of tokens follows the first; drafts are what is likely."""
    asked = [Request(prompt=PROMPT, max_new_tokens=4)] * COUNT
    likely = [*PROMPT, 0, *divmod(int(chances().argmax()), SMALL), 0]
    made = DRAFTERS.get(method)
    small = {"drafter": made(vocab_size=SMALL, dflash_config=TAPS)} if made else {}
    given: dict[str, Any] = {
        "target": target(vocab_size=SMALL),
        "temperature": TEMPERATURE,
        "mode": "v2-sync",
        "max_running_requests": 500,
        "wrap": knowing([likely] * COUNT, wrong=0.1, vocab=SMALL),
    }
    given |= small
    run, _ = serve_inline(setup("qwen3", method, **(given | changes)), asked, conc=500)
    if method != "none":
        assert run.accept_length > 1.1
    return Counter((a.output[1], a.output[2]) for a in run.answers)


def p_value(seen: Counter[tuple[int, int]]) -> float:
    """Chi-square of pairs, rare ones taken together."""
    expected = chances() * COUNT
    often = [(int(i), int(j)) for i, j in (expected >= 8).nonzero()]
    want = [float(expected[pair]) for pair in often]
    got = [seen[pair] for pair in often]
    want.append(COUNT - sum(want))
    got.append(COUNT - sum(got))
    assert len(often) > 20
    return float(stats.chisquare(got, want).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", *DRAFTERS])
def test_pairs_of_tokens_are_distributed_as_the_targets(method: str) -> None:
    assert p_value(drawn(method)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dflash2", "dspark"])
def test_a_verdict_that_is_told_other_odds_is_seen(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: drawn proposals judged as if all tokens had been equally likely."""
    true = Odds.dense
    monkeypatch.setattr(Odds, "dense", lambda *of: torch.full_like(true(*of), 1 / SMALL))
    assert p_value(drawn(method)) < CERTAIN


@pytest.mark.slow
def test_accepting_everything_is_seen() -> None:
    """The negative control: kept whatever was drafted, pairs are far from the target's."""
    assert p_value(drawn("dflash", accept_length=5.0)) < CERTAIN


def test_random_numbers_are_uniform_and_independent() -> None:
    keys, places = (x.flatten() for x in torch.meshgrid(*[torch.arange(200)] * 2, indexing="ij"))
    u = uniforms(7, keys, places).numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    for shift in (1, 200):
        assert abs(stats.pearsonr(u[shift:], u[:-shift]).statistic) < 0.02
    other = uniforms(8, keys, places).numpy()
    assert abs(stats.pearsonr(u, other).statistic) < 0.02
    assert (uniforms(7, keys, places).numpy() == u).all()
