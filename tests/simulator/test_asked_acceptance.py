"""Scenarios and the acceptance that they ask for: mixtures, content, contexts, own files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_dataset
from dflash_sim.simulator.asked_acceptance import memory
from dflash_sim.simulator.predict import doubts, predict, simulate
from dflash_sim.simulator.published import nearest_published
from dflash_sim.simulator.requests.expected import Expectation
from dflash_sim.simulator.requests.mixtures import MixedAcceptance
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import Setup, resolve

MIX = "humaneval:0.3,mt-bench:0.7"


def setup(**fields: Any) -> Setup:
    return resolve(Scenario.parse(**fields))


def expectation(**fields: Any) -> Expectation:
    found = setup(**fields).expectation
    assert found is not None
    return found


def length(e: Expectation) -> float:
    return e.acceptance.survival().mean_accept_length


def test_a_mixture_has_the_laws_of_its_parts() -> None:
    each = [length(expectation(dataset=d)) for d in ("humaneval", "mt-bench")]
    mixed = expectation(dataset=MIX)
    assert length(mixed) == pytest.approx(0.3 * each[0] + 0.7 * each[1])
    assert isinstance(mixed.acceptance, MixedAcceptance)
    assert mixed.source.startswith("0.3 humaneval: borrowed from ")
    assert 0.05 < mixed.rel_err < 0.2


def test_a_mixture_of_one_is_that_data_set() -> None:
    assert expectation(dataset="mt-bench:1") == expectation(dataset="mt-bench")
    plain, one = setup(dataset="gsm8k"), setup(dataset="gsm8k:1")
    values = [simulate(s, s.expectation, run=0)[0].values for s in (plain, one)]
    assert values[0] == values[1]


@pytest.mark.slow
def test_a_mixture_is_answered_with_an_interval_between_its_parts() -> None:
    found = {d: predict(Scenario.parse(dataset=d, conc=4, runs=2)) for d in
             ("humaneval", "mt-bench", MIX)}  # fmt: skip
    speeds = {d: r.values["output_throughput"] for d, r in found.items()}
    assert speeds["mt-bench"] < speeds[MIX] < speeds["humaneval"]
    low, high = found[MIX].intervals["output_throughput"]
    assert 1.05 < high / low < 1.6


def test_content_names_the_text_and_leaves_the_lengths() -> None:
    lengths = {"isl": 500, "osl": 200}
    plain, prose = expectation(**lengths), expectation(**lengths, content="prose")
    code = expectation(**lengths, content="humaneval")
    assert length(prose) < length(plain) < length(code)
    assert prose.rel_err > code.rel_err
    mixed = expectation(**lengths, content="humaneval:0.5,prose:0.5")
    assert length(mixed) == pytest.approx((length(prose) + length(code)) / 2)
    with pytest.raises(UsageError, match="unknown content 'prosa'; did you mean prose"):
        expectation(**lengths, content="prosa")


FIRST = {
    "model": "qwen3-8b",
    "thinking": False,
    "gpu": "h100",
}  # its drafter sees the whole context


def test_fixed_lengths_bring_their_context_with_them() -> None:
    short, medium, long = (expectation(**FIRST, isl=isl, osl=256) for isl in (500, 3000, 30000))
    assert short == medium
    assert length(long) < 0.8 * length(short)
    assert long.rel_err > short.rel_err
    assert "to a context of 30,128 tokens" in long.source


def test_what_a_drafter_sees() -> None:
    assert memory(setup(**FIRST)) == "full"
    assert memory(setup(**FIRST, window=2048)) == "windowed"
    assert memory(setup()) == "windowed", "the retrained drafters have windows"
    assert memory(setup(method="mtp", steps=3)) == "native"


def test_longer_prompts_of_a_data_set_count_too() -> None:
    asked = Scenario.parse(**FIRST, dataset="gsm8k")
    sheet = load_dataset("gsm8k")
    mean = replace(sheet.isl[0].mean, value=30000)
    longer = replace(sheet, isl=(replace(sheet.isl[0], mean=mean),))
    short, long = (resolve(asked, dataset=d).expectation for d in (sheet, longer))
    assert short is not None
    assert long is not None
    assert length(long) < 0.8 * length(short)


def test_a_temperature_is_in_the_answer() -> None:
    greedy, sampled = (
        expectation(
            model="llama-3.1-8b", thinking=False, gpu="h100", dataset="gsm8k", temperature=t
        )
        for t in (0.0, 1.0)
    )
    assert length(sampled) < length(greedy)
    assert sampled.source.endswith("inferred from greedy for temperature 1")
    one = expectation(
        model="llama-3.1-8b", thinking=False, gpu="h100", dataset="gsm8k", temperature=1, top_k=1
    )
    assert (one.source, length(one)) == (greedy.source, length(greedy))
    card = {"dataset": "gsm8k", "conc": 1}
    assert nearest_published(setup(**card)) is not None
    assert nearest_published(setup(**card, temperature=1.0)) is None


def test_a_published_row_that_was_drawn_is_that_of_its_thresholds() -> None:
    """The card of Qwen3.8-27B: temperature 1, top-p 0.95, top-k 20, in every row."""
    card = {"model": "qwen3.8-27b", "gpu": "h200", "method": "mtp", "steps": 7, "dataset": "gsm8k"}
    drawn = {"temperature": 1.0, "top_p": 0.95, "top_k": 20}
    found = nearest_published(setup(**card, **drawn, conc=8))
    assert found is not None
    assert (found.source_id, found.output_tok_s, found.block) == ("HF_Q38_27B_DFLASH2", 1022.1, 8)
    assert found.url == "https://huggingface.co/z-lab/Qwen3.8-27B-DFlash2"
    for other in ({"top_k": 1}, {"top_k": 40}, {"temperature": 0.9}, {"top_p": 1.0}):
        assert nearest_published(setup(**card, **(drawn | other), conc=8)) is None
    assert nearest_published(setup(**card, **drawn, conc=9)) is None


@pytest.mark.parametrize("text", ["al:7", "fixed:0", "sglang-simulated:x", "vllm-synthetic:9"])
@pytest.mark.parametrize("block", [2, 3, 6])
def test_a_hint_can_be_typed(text: str, block: int) -> None:
    """What an error says to write is itself taken, at the block that was asked."""
    with pytest.raises(UsageError, match="Write it as") as error:
        _ = setup(block=block, acceptance=text).expectation
    hint = str(error.value).split("Write it as ")[1].split()[0].split("[")[0].rstrip(".,")
    assert setup(block=block, acceptance=hint).expectation is not None


def test_a_histogram_that_a_block_cuts_is_told() -> None:
    """Steps that accepted more count as all drafts of the block; the share of them is said."""
    wide = "histogram:0=60,1=20,2=10,3=10"
    assert not [w for w in doubts(setup(block=4, acceptance=wide)) if "histogram" in w]
    cut = [w for w in doubts(setup(block=3, acceptance=wide)) if "histogram" in w]
    assert len(cut) == 1
    assert cut[0].startswith("10.0 % of the histogram's steps accepted more than the 2 drafts")


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"top_p": 0.9}, "top-p changes nothing"),
        ({"top_k": 20}, "top-k changes nothing"),
        ({"top_p": 0.9, "top_k": 20}, "top-p and top-k change nothing"),
    ],
)
def test_thresholds_without_a_temperature(limits: dict[str, float], said: str) -> None:
    assert any(said in warning for warning in setup(**limits).warnings)


def test_data_sets_keep_the_context_of_their_own_figures() -> None:
    assert "context" not in expectation(dataset="math500").source


def test_forms_by_part(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([40, 30, 20, 10, *[0] * 12]))
    found = expectation(dataset=MIX, acceptance=f"mix:mt-bench=file:{file};humaneval=al:8")
    assert isinstance(found.acceptance, MixedAcceptance)
    assert found.acceptance.labels == ("humaneval", "mt-bench"), "as the workload has them"
    assert length(found) == pytest.approx(0.3 * 8 + 0.7 * 2)
    assert (found.rel_err, found.source[:6]) == (0.0, "given:")
    shares = expectation(dataset="gsm8k", acceptance="mix:0.25=al:6;0.75=al:4")
    assert length(shares) == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("dataset", "acceptance", "said"),
    [
        (MIX, "mix:humaneval=al:8", "says nothing of mt-bench"),
        (MIX, "mix:humaneval=al:8;gsm8k=al:3", "did you mean|Have: humaneval, mt-bench"),
        (MIX, "mix:0.5=al:8;0.5=al:3", "name the parts of the mixture"),
        ("gsm8k", "mix:0.5=al:8;0.6=al:3", "add up to 1.1, not 1"),
        ("gsm8k", "mix:", "every part is a share or a data set"),
        ("gsm8k", "mix:0.5=al:99;0.5=al:3", "outside"),
        ("gsm8k", "mix:0.5=sglang-simulated:3;0.5=al:3", "cannot be a part of a mix"),
        ("gsm8k", "file:nowhere.json", "No such file"),
    ],
)
def test_bad_forms_are_one_line(dataset: str, acceptance: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        expectation(dataset=dataset, acceptance=acceptance)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_prior_widens_the_interval_of_the_answer() -> None:
    fields = {"method": "eagle3", "steps": 3, "dataset": "gsm8k", "runs": 1}
    length = expectation(**fields, acceptance="prior").acceptance.survival().mean_accept_length
    wide, given = (
        predict(Scenario.parse(**fields, acceptance=a)) for a in ("prior", f"al:{length:.5g}")
    )
    ratios = []
    for result in (wide, given):
        low, high = result.intervals["output_throughput"]
        ratios.append(np.log(high / low))
    assert ratios[0] > 1.3 * ratios[1]
    assert any("published eagle3 drafters of 5 models" in w for w in wide.warnings)
