"""GH200: what was traced there, how the H200's tables stand in, and how near the phases come.

Each band is stated where it is asserted. Nothing is fitted on the phases that are counted.
"""

import os
from dataclasses import replace
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_sim.calibrate.fit.held_out import Outcome as Predicted
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import ENV
from dflash_sim.profiles.load import load_dataset, load_device
from dflash_sim.profiles.phases import load_kernels, load_phases
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.times.op_tables import OpTables
from dflash_sim.simulator.cost.ops import Attention, Collective, GdnRecurrent, Gemm, Op
from dflash_sim.simulator.cost.price import CostModel
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve
from dflash_sim.studies.published import gh200_loop as gh200
from dflash_sim.studies.published import gh200_page as phases_page
from dflash_sim.studies.published import gh200_phases as phases
from dflash_sim.studies.published.cards import evaluate
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.gh200_causes import GAPS, Facts
from dflash_sim.studies.published.gh200_phases import Outcome

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "studies/gallery/02_gh200_phases.py"
ENGINE = load_engine("sglang-0.5.14")
H200, GH200 = load_device("h200"), load_device("gh200")
SLOWER = H200.mem_bw_byte_s / GH200.mem_bw_byte_s  # 1.2


@cache
def facts() -> Facts:
    return Facts.now()


@cache
def lent() -> OpTables:
    tables = OpTables.load("h200")
    assert tables is not None
    return tables


def of(block: int, conc: int | None = None, what: str | None = None) -> list[Outcome]:
    """Counted phases of one server."""
    found = phases.counted(facts().phases)
    return [
        o for o in found if o.block == block and conc in (None, o.conc) and what in (None, o.what)
    ]


# ---- what was published ------------------------------------------------------------------


def test_traced_phases_add_up_to_the_traced_cycle() -> None:
    points = [p for p in load_phases() if p.source_id == phases.TRACED]
    assert len(points) == 2 * 4 * 11
    cycles = {p.cycle: p.seconds for p in points if p.phase == "cycle_traced"}
    assert len(cycles) == 8
    for cycle, seconds in cycles.items():
        parts = [p.seconds for p in points if p.cycle == cycle and "cycle" not in p.phase]
        assert len(parts) == 9
        assert sum(parts) == pytest.approx(seconds, rel=1e-3)


def test_traced_kernels_add_up_to_the_same_cycles() -> None:
    cycles = {(p.block, p.conc): p for p in load_phases() if p.phase == "cycle_traced"}
    kernels = [k for k in load_kernels() if k.per == "cycle"]
    traced = {(k.block, k.conc, k.ctx) for k in kernels}
    assert {(b, c) for b, c, _ in traced} == {(16, 1), (16, 64), (8, 1), (8, 16), (8, 64)}
    for block, conc, ctx in traced:
        assert block is not None
        assert conc is not None
        point = cycles[block, conc]
        total = sum(k.seconds for k in kernels if (k.block, k.conc) == (block, conc))
        assert total == pytest.approx(point.seconds, rel=1e-3)
        assert ctx == point.ctx


def test_the_verify_families_hold_the_whole_verify_pass_but_the_embedding() -> None:
    heads = ("head product", "head cast and argmax")
    for at in ((8, 1), (8, 16), (8, 64), (16, 1), (16, 64)):
        whole = facts().of("verify_forward", *at).observed_s
        inside = [k for k in facts().kernels if (k.block, k.conc) == at and k.what not in heads]
        assert 0.985 * whole < sum(k.observed_s for k in inside) < whole


def test_a_users_rows_come_first_and_a_bad_one_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    shipped = (ROOT / "profiles/published/phases.csv").read_text(encoding="utf-8").splitlines()
    mine = shipped[1].replace("VP_GH200_PROFILE", "MINE")
    (folder / "phases.csv").write_text("\n".join([shipped[0], mine]), encoding="utf-8")
    found = load_phases((tmp_path,))
    assert [p.source_id for p in found[:2]] == ["MINE", "VP_GH200_PROFILE"]
    assert len(found) == len(load_phases()) + 1
    for bad in (mine.replace(",ms", ",parsec"), mine.replace("8.155", "-1"), mine[:30]):
        (folder / "phases.csv").write_text("\n".join([shipped[0], bad]), encoding="utf-8")
        with pytest.raises(UsageError, match=r"phases\.csv, line 2"):
            load_phases((tmp_path,))


# ---- another GPU's tables ----------------------------------------------------------------


def models() -> tuple[CostModel, CostModel]:
    """Prices on the H200 and on the GH200, both from the H200's tables."""
    own = CostModel(H200, ENGINE, lent())
    return own, CostModel(GH200, ENGINE, lent(), lender=H200)


sizes = st.integers(1, 20_000)
ops = st.one_of(
    st.builds(Gemm, st.just("g"), sizes, sizes, sizes),
    st.builds(
        Attention, st.just("a"), st.integers(1, 64), st.integers(1, 16),
        st.floats(0, 20_000), st.just(16), st.just(4), st.just(256),
    ),
    st.builds(
        GdnRecurrent, st.just("r"), st.integers(1, 64), st.integers(1, 16),
        st.just(32), st.just(16), st.just(128), st.just(128),
    ),
)  # fmt: skip


@given(ops)
def test_a_lent_time_is_scaled_by_at_most_the_ratio_of_bandwidths(op: Op) -> None:
    own, borrowed = models()
    gap = ENGINE["graph_node_gap"]
    ratio = (borrowed.op(op).seconds - gap) / (own.op(op).seconds - gap)
    assert 1 - 1e-9 <= ratio <= SLOWER + 1e-9
    assert borrowed.op(op).by_evidence[0] == 0  # never measured there
    assert borrowed.op(op).by_evidence[1] > 0


def test_memory_takes_the_whole_ratio_and_arithmetic_none() -> None:
    own, borrowed = models()
    for op, expected in (
        (Gemm("wide", 1, 248_320, 8192), SLOWER),
        (Gemm("square", 8192, 8192, 8192), 1.0),
    ):
        assert borrowed.op(op).seconds / own.op(op).seconds == pytest.approx(expected, rel=0.01)


def test_a_collective_is_scaled_by_the_links() -> None:
    half = replace(H200, link_byte_s=H200.link_byte_s / 2)
    op = Collective("r", "all_reduce", 1e9, 8)
    own = CostModel(H200, ENGINE, lent()).op(op)
    borrowed = CostModel(half, ENGINE, lent(), lender=H200).op(op)
    assert borrowed.comm_s / own.comm_s == pytest.approx(2, rel=0.01)


def test_who_borrows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"model": "qwen3.5-4b", "isl": 64, "osl": 64, "num_prompts": 2, "runs": 1}
    asked |= {"acceptance": "fixed:2"}
    result = predict(Scenario.parse(gpu="gh200", **asked), with_baseline=False)
    assert result.evidence["measured"] == 0
    assert result.evidence["fitted"] > 0.5
    assert any("those of h200 are scaled" in w for w in result.warnings)
    own = predict(Scenario.parse(gpu="h200", **asked), with_baseline=False)
    assert own.setup.lender is None
    assert not any("scaled" in w for w in own.warnings)
    # Who measures a GH200 is not given another GPU's times.
    folder = tmp_path / "ops" / "gh200"
    folder.mkdir(parents=True)
    for path in (ROOT / "profiles/ops/h100").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    before = os.environ.get(ENV, "")
    monkeypatch.setenv(ENV, os.pathsep.join(filter(None, [str(tmp_path), before])))
    measured = resolve(Scenario.parse(gpu="gh200", **asked))
    assert measured.lender is None
    assert measured.tables is not None


def test_lent_products_match_those_timed_on_the_machine() -> None:
    """36 bf16 products (VP_GH200_MICRO): mean error under 8 %, and worse if not scaled."""
    products = [o for o in facts().alone if not o.what.startswith("gdn_d") and o.block == 1]
    assert len(products) == 36
    assert phases.mape(products) < 0.08
    setup = facts().server
    unscaled = CostModel(H200, setup.engine, lent())
    off = []
    for k in load_kernels():
        if k.kernel == "gdn_in_proj_qkvz" and k.rows is not None:
            seconds = (
                unscaled.op(Gemm("g", k.rows, 12_288, 2560)).seconds - ENGINE["graph_node_gap"]
            )
            off.append(seconds / k.seconds - 1)
    assert len(off) == 9
    assert sum(off) / len(off) < -0.06


# ---- phases ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "band"),
    [
        ("draft_forward", 0.15),
        ("draft_head", 0.08),
        ("kv_injection", 0.08),
        ("verify_forward", 0.10),
        ("verify_head", 0.10),
    ],
)
def test_phases_of_the_flashinfer_server_up_to_16_requests(what: str, band: float) -> None:
    """Block 8, c=1, 4, 16: each phase within its band."""
    found = [o for o in of(8, what=what) if o.conc <= 16]
    assert len(found) == 3
    assert [o for o in found if abs(o.error) > band] == []


def test_phases_of_both_servers_in_the_mean() -> None:
    """20 phases of each: mean error under 8 %, bias under 3 %."""
    for block in (8, 16):
        assert len(of(block)) == 20
        assert phases.mape(of(block)) < 0.08
        assert abs(phases.bias(of(block))) < 0.03


def test_verification_and_commit_at_every_batch() -> None:
    """1 to 64 requests: the verify pass with its head, and the commit, within 10 %."""
    for block, conc in [(b, c) for b in (8, 16) for c in (1, 4, 16, 64)]:
        pair = [facts().of(what, block, conc) for what in ("verify_forward", "verify_head")]
        took = sum(o.observed_s for o in pair)
        assert abs(sum(o.predicted_s for o in pair) / took - 1) < 0.10
        assert abs(facts().of("gdn_commit", block, conc).error) < 0.10


def test_verification_where_no_kernel_was_traced() -> None:
    """Laws were fitted to kernels of other cycles: five passes within 8 %, 4 % in the mean."""
    unseen = phases.apart((*facts().phases, *facts().again))
    assert {(o.what, o.block, o.conc) for o in unseen} == {
        ("verify_forward", 8, 4), ("verify_forward", 16, 4), ("verify_forward", 16, 16),
        ("verify", 16, 8), ("verify", 16, 16),
    }  # fmt: skip
    assert max(abs(o.error) for o in unseen) < 0.08
    assert phases.mape(unseen) < 0.04


def test_one_state_per_position_is_what_verification_costs() -> None:
    """The GDN recurrence within 10 % in every cycle; with one state per request, a third."""
    step = facts().server.step
    for at in ((8, 1), (8, 16), (8, 64), (16, 1), (16, 64)):
        assert abs(facts().of("GDN recurrence", *at).error) < 0.10
    many = facts().of("GDN recurrence", 8, 16)
    one = GdnRecurrent("r", 16, 1, 32, 16, 128, 128)
    assert 24 * step.cost.op(one).seconds < many.observed_s / 3


def test_constants_from_these_traces_are_named_and_never_counted() -> None:
    prior = {o.what for o in facts().phases if o.prior}
    assert {"gaps_in_graphs", "host_gap"} <= prior
    assert not prior & {o.what for o in phases.counted(facts().phases)}
    assert {o.what for o in phases.counted(facts().phases)} == set(phases.COUNTED)
    for o in facts().phases:
        for name in o.prior:
            assert phases.MACHINE in ENGINE.constants[name].source
    said = phases_page.quoted(facts())["GH200 constants"]
    here = facts().server.engine
    names = phases.taken_from(phases.MACHINE, here, here.constants)
    assert said == ", ".join(f"`{name}`" for name in names)
    assert len(names) > 5
    other = replace(ENGINE.constants["step_eager_spec"], source="measured elsewhere")
    moved = replace(ENGINE, constants={**ENGINE.constants, "step_eager_spec": other})
    names = ("step_eager_spec", "graph_node_gap")
    assert phases.taken_from(phases.MACHINE, ENGINE, names)[:1] == ("step_eager_spec",)
    assert "step_eager_spec" not in phases.taken_from(phases.MACHINE, moved, names)


# ---- the page ----------------------------------------------------------------------------


def test_every_large_gap_has_a_reason() -> None:
    """A kernel family or phase that costs over 2 % of its cycle by a miss of over 15 %."""
    about = {name for gap in GAPS if gap.shows(facts()) for name in gap.about}
    cycles = {(o.block, o.conc): o for o in facts().phases if o.what == "cycle_traced"}
    large = {
        o.what
        for o in (*facts().phases, *facts().kernels)
        if abs(o.error) > 0.15
        and abs(o.predicted_s - o.observed_s) > 0.02 * cycles[o.block, o.conc].observed_s
    }
    assert large
    assert large <= about
    assert all(gap.about for gap in GAPS)


def test_a_reason_goes_when_its_gap_does() -> None:
    near = [replace(o, predicted_s=o.observed_s) for o in facts().phases]
    mended = replace(facts(), phases=near)
    titles = [gap.title for gap in GAPS if gap.shows(mended)]
    assert "The head at 256 to 512 rows." not in titles
    assert len(titles) < len([gap for gap in GAPS if gap.shows(facts())])


def test_the_first_table_has_every_phase_block_and_batch() -> None:
    rows = phases_page.tables(facts())[0].rows
    assert len(rows) == 2 * 11
    assert all(len(row) == 7 for row in rows)
    for row in rows:
        for cell in row[2:6]:
            observed, _, rest = cell.partition(" / ")
            predicted, _, error = rest.partition(", ")
            if float(observed) > 300:
                share = float(error.removesuffix(" %")) / 100
                assert float(predicted) / float(observed) - 1 == pytest.approx(share, abs=0.01)


# ---- the closed loop ---------------------------------------------------------------------


def test_forced_answers_are_all_of_one_length() -> None:
    dataset = load_dataset("mixed-v2")
    assert dataset.name == "vp-mixed-v2"
    scenario = Scenario.parse(
        gpu="gh200", model="qwen3.5-4b", method="none", dataset="mixed-v2", conc=4,
        max_new_tokens=512, num_prompts=8, radix_cache=False, runs=1,
    )  # fmt: skip
    values = predict(scenario, with_baseline=False).values
    assert values["total_output_tokens"] == 8 * 512
    assert {q.evidence for key, q in dataset.quantities.items() if key.startswith("isl")} == {
        "assumed"
    }


@pytest.mark.slow
def test_every_row_of_the_closed_loop_is_a_scenario() -> None:
    asked = [row.scenario for row in gh200.rows()]
    assert len(asked) == 85
    assert max(s.conc or 0 for s in asked) == 128
    assert {s.radix_cache for s in asked} == {True, False}
    assert sum(s.attention_backend == "triton" for s in asked) == 20
    assert {s.dataset for s in asked} == {"vp-mixed-v2"}
    assert {s.max_running_requests for s in asked} == {64, 128}


@cache
def sample() -> pd.DataFrame:
    """One row in eight."""
    return gh200.errors_of(evaluate(gh200.rows()[::8], runs=1))


@pytest.mark.slow
def test_errors_of_the_closed_loop() -> None:
    """Plain decoding within 20 % of every row, and drafting too."""
    plain = sample()["method"] == "none"
    size = sample()["error"].abs()
    assert plain.sum() >= 2
    assert size[plain].max() < 0.20
    assert size[~plain].max() < 0.20


@pytest.mark.slow
def test_memory_lets_fewer_run_than_ask() -> None:
    rows = [row for row in gh200.rows() if row.scenario.conc in (1, 128)]
    errors = gh200.errors_of([Predicted(row, "", 1.0) for row in rows])
    assert set(errors.query("c == 1")["running"]) == {1}
    many = errors.query("c == 128")["running"]
    assert 60 < many.min() < many.max() == 128


# ---- the gallery -------------------------------------------------------------------------


def test_study_reproduces_its_tables() -> None:
    again = f"run python {SCRIPT.relative_to(ROOT)} --write"
    printed = Findings.read(SCRIPT.with_suffix(".json"))
    for table in phases_page.tables(facts()):
        assert printed[table.title] == table, again
    rows = printed["GH200 closed loop, every row"].rows
    assert gh200.every_row(sample()).rows == rows[::8], again
    for name, words in phases_page.quoted(facts()).items():
        assert printed.words[name] == words, again


@pytest.mark.slow
def test_study_reproduces_all_of_its_output() -> None:
    spec = spec_from_file_location("gh200_phases", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    study = module_from_spec(spec)
    spec.loader.exec_module(study)
    found = study.findings()
    assert found.text() == SCRIPT.with_suffix(".out").read_text(encoding="utf-8")
    assert found == Findings.read(SCRIPT.with_suffix(".json"))
