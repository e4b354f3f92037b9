"""One phase of a step: its ops add up to it, and each says where its price is from."""

import json
import re
from dataclasses import replace

import pytest

from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.explain.phase import HOST, PhaseDetail, phase_detail, phase_page, phase_rows
from dflash_sim.studies.explain.step_anatomy import anatomy
from dflash_sim.studies.show.terminal import as_page

ASKED = Scenario.parse(conc=32, num_prompts=32, max_new_tokens=64, runs=1)


@pytest.fixture(scope="module")
def details() -> dict[str, PhaseDetail]:
    return {name: phase_detail(ASKED, name) for name in ("draft", "verify", "commit", HOST)}


@pytest.mark.parametrize("name", ["draft", "verify", "commit", HOST])
def test_the_rows_add_up(details: dict[str, PhaseDetail], name: str) -> None:
    rows = list(phase_rows(details[name]))
    assert rows
    assert sum(row["seconds"] for row in rows) == pytest.approx(details[name].seconds)


@pytest.mark.parametrize("name", ["draft", "verify"])
def test_every_op_says_where_its_price_is_from(details: dict[str, PhaseDetail], name: str) -> None:
    kernels = [op for op in details[name].ops if op.launches]
    assert len(kernels) > 15
    by = {op.op: op.origin for op in kernels}
    assert by["qkv_proj"].startswith("gemm.csv ")
    assert by["attention"].startswith("attention.csv trtllm_mha")
    assert by["attention_all_reduce"].startswith("comm.csv all_reduce 8 ")
    assert by["kv_write"].startswith("small kernel, bytes at elementwise_bw_eff 0.50 ")
    assert all(by.values())


def test_the_page_tells_the_value_of_a_constant_once(details: dict[str, PhaseDetail]) -> None:
    page = " ".join(as_page(phase_page(details["verify"]), to_file=True).split())
    assert re.search(r"attention\.csv [^.]* x verify_attention_factor x", page)
    assert page.count("verify_attention_factor 1.30 (assumed)") == 1
    assert page.index("constants: ") > page.index("between kernels")


def test_the_factor_of_a_wide_verify_is_in_its_ops() -> None:
    """Each op takes so much longer, and names it; the draft does not."""
    setup = resolve(ASKED)
    slow = replace(setup.engine, read=set()).with_constants(wide_verify_factor=1.5)
    plain, wide = (
        anatomy(resolve(ASKED, engine=engine), requests=8, ctx=500.0)
        for engine in (setup.engine, slow)
    )
    for a, b in zip(plain.ops, wide.ops, strict=True):
        longer = 1.5 if a.phase == "verify" else 1.0
        if a.launches:
            assert b.seconds == pytest.approx(longer * a.seconds)
            assert ("wide_verify_factor 1.50" in b.origin) == (a.phase == "verify")
    assert wide.seconds == pytest.approx(sum(op.seconds for op in wide.ops))


def test_a_scaled_table_says_whose_it_is() -> None:
    asked = Scenario.parse(gpu="gh200", model="qwen3-8b", tp=1, conc=1, num_prompts=2, runs=1)
    detail = phase_detail(asked, "verify")
    (origin,) = {op.origin for op in detail.ops if op.op == "qkv_proj"}
    assert ", scaled from h200" in origin


def test_host_stages_are_the_setup_s(details: dict[str, PhaseDetail]) -> None:
    stages = resolve(ASKED).host.stages(v1=False)
    assert [s.name for s in details[HOST].stages] == [s.name for s in stages]
    assert details[HOST].seconds == pytest.approx(sum(s.seconds(32) for s in stages))


def test_a_phase_is_found_by_the_word_of_the_pages(details: dict[str, PhaseDetail]) -> None:
    assert phase_detail(ASKED, "State commit") == details["commit"]
    injected = phase_detail(ASKED, "kv-injection")
    assert injected == phase_detail(ASKED, "materialise")
    assert (injected.name, injected.title) == ("materialise", "KV injection")


def test_a_phase_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown phase 'draught'.*Have: commit, draft"):
        phase_detail(ASKED, "draught")
    plain = Scenario.parse(method="none", conc=2, num_prompts=2, runs=1)
    with pytest.raises(UsageError, match="method none has no phase 'draft'; it has verify"):
        phase_detail(plain, "draft")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "qwen3-8b", "--conc", "4", "--num-prompts", "8", "--max-new-tokens", "64"]
    assert run(["explain", *asked, "--phase", "draft", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["phase"] for row in rows} == {"draft"}
    assert run(["explain", *asked, "--phase", "host", "--format", "table"]) == 0
    assert "all together" in capsys.readouterr().out
