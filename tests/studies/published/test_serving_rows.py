"""Rows of other servers: read whole, cleaned as told, and kept apart where they test."""

import csv
from collections import Counter
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np
import pytest

from dflash_sim.calibrate.fit.fit import fit
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.servers import MeasuredServer, measured_on, role_of
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.engine_sheet import load_engine
from dflash_sim.profiles.releases.engine_versions import match_engine
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.slopes import METRICS
from dflash_sim.studies.compare.validate_question import published
from dflash_sim.studies.published.serving_rows import (
    by_server,
    open_rows,
    peers_of,
    rows_that_test,
    serving_rows,
)

ENGINE = str(Scenario.model_fields["engine"].default)
SAMPLE, LAB = "AIC_SILICON_SAMPLE", "AIC_SILICON_LAB"
LAUNCH_MODEL = "qwen3.5-397b-a17b"
PUBLISHED_SUMMARY = {  # mean error of TTFT, TPOT and rate [%], computed apart from these files
    ("b300", "aiconfigurator 0.12.0"): (41.4, 8.2, 8.7),
    ("b300", "AISimulate 0.13.0.dev1027"): (78.0, 8.3, 7.0),
    ("b200", "aiconfigurator 0.12.0"): (64.3, 23.3, 33.3),
    ("b200", "AISimulate 0.13.0.dev1027"): (87.3, 19.3, 27.8),
}


def sampled() -> list[Observation]:
    """The bf16 rows of the launch model that two other tools are judged on."""
    rows = (row for row in serving_rows() if row.source == SAMPLE)
    return [row for row in rows if row.fields["model"] == LAUNCH_MODEL]


@cache
def cells() -> list[dict[str, str]]:
    """The file itself, of which only what can be simulated becomes a row."""
    text = files("dflash_sim.profiles").joinpath("published/serving.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def is_quantised(row: dict[str, str]) -> bool:
    return bool(row["quantization"]) or "/" in row["model"]


def test_every_row_is_read() -> None:
    """Whatever cannot be simulated is refused by name: of a checkpoint or of a flag."""
    report = published("serving.csv")
    assert report.read == len(cells()) == 690
    plain = [row for row in cells() if not is_quantised(row)]
    assert len(plain) == 261
    ids = {row.about["id"] for row in report.observations}
    assert {row["id"] for row in plain} <= ids
    named = ("model", "quantization", "kv_cache_dtype", "ep_size")
    assert all(any(name in why for name in named) for _, why in report.refused)
    ids = [row.about["id"] for row in report.observations]
    assert len(set(ids)) == len(ids)
    for row in report.observations:
        assert row.about["url"].startswith("https://"), row.source
        Scenario.parse(**row.fields)


def test_no_measurement_is_told_twice() -> None:
    def measured(row: Observation) -> tuple[object, ...]:
        return (*sorted(row.metrics.items()),)

    rows = [row for row in serving_rows() if len(row.metrics) > 2]
    assert max(Counter(map(measured, rows)).values()) == 1


def test_roles() -> None:
    assert {role_of(row) for row in serving_rows()} == {"open", "test"}
    assert len(open_rows()) + len(rows_that_test()) == len(serving_rows())
    assert all(role_of(row) == "test" for row in sampled())
    assert len(sampled()) == 36
    of_launch = {row.source for row in open_rows() if row.fields["model"] == LAUNCH_MODEL}
    assert of_launch == {"LAMBDA_Q35_397B"}
    sure = open_rows(doubtful=False)
    assert 100 < len(sure) < len(open_rows())
    assert all("output_throughput" in row.metrics for row in sure)


def test_the_sample_is_cleaned() -> None:
    """569 measurements, less 20 that span nodes: ranks are GPUs, and experts divide over them."""
    rows = [row for row in cells() if row["source_id"] in (SAMPLE, LAB)]
    assert len(rows) == 569 - 20
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        tp, ep = int(row["tp"]), int(row["ep_size"] or 1)
        assert row["num_gpus"] == row["tp"]
        assert tp in (1, 2, 4, 8)
        assert ep in (1, tp)
    assert sum(int(row["ep_size"] or 1) > 1 for row in rows) == 119


def test_rows_that_no_fit_reads_are_so_for_good() -> None:
    rows = [row for row in cells() if row["source_id"] in (SAMPLE, LAB)]
    kinds = {
        "glm": lambda row: "glm-5" in row["model"].lower(),
        "llama": lambda row: row["model"] == "llama-3.1-8b",
        "nvfp4 on B200": lambda row: row["quantization"] == "modelopt_fp4" and row["gpu"] == "b200",
        "speculates": lambda row: row["method"] == "mtp",
        "launch model": lambda row: row["model"] == LAUNCH_MODEL,
    }
    sizes = {name: sum(map(of, rows)) for name, of in kinds.items()}
    assert list(sizes.values()) == [53, 46, 91, 57, 36]
    for row in rows:
        assert (row["role"] == "test") == any(of(row) for of in kinds.values()), row["id"]
        if row["method"] == "mtp":
            assert "not labelled" in row["doubt"]
            assert (row["block"], row["accept_len"]) in (("4", ""), ("3", ""))


def test_every_plain_row_of_the_sample_has_its_peers() -> None:
    text = files("dflash_sim.profiles").joinpath("published/peers.csv").read_text("utf-8")
    told = Counter(line["id"] for line in csv.DictReader(text.splitlines()))
    plain = [
        row["id"]
        for row in cells()
        if row["source_id"] in (SAMPLE, LAB) and row["method"] == "none"
    ]
    assert told.keys() <= set(plain)
    assert sum(told[id] == 2 for id in plain) == 488
    assert len(plain) == 492


def test_a_server_is_a_party_a_machine_a_model_and_a_build() -> None:
    servers = by_server(serving_rows())
    assert sum(map(len, servers.values())) == len(serving_rows())
    lab = {
        s.tp: len(rows) for s, rows in servers.items() if s.source == LAB and s.model == "qwen3-32b"
    }
    assert lab == {1: 6, 2: 24, 4: 27, 8: 27}
    assert len({s for s in servers if s.source == "SGL_COOKBOOK_Q36"}) == 4  # one a GPU
    first = measured_on(serving_rows()[0])
    assert first == MeasuredServer("SGL_COOKBOOK_Q3", "b200", 8, "qwen3-235b-a22b", "0.5.6")
    assert str(first) == "SGL_COOKBOOK_Q3: qwen3-235b-a22b, 8 b200, 0.5.6"
    assert str(first._replace(build=None, tp=None)) == "SGL_COOKBOOK_Q3: qwen3-235b-a22b, ? b200"


def test_builds_are_written_as_sheets_are_matched() -> None:
    """All but a fork and a page without a date name a version or a day."""
    unknown = {row.build for row in serving_rows() if match_engine(str(row.build)) is None}
    assert unknown == {"domino-fork", "undated vendor page"}


def test_the_launch_flags_of_the_tested_rows() -> None:
    """A new request waits for every tenth step, or every thirtieth from sixteen clients on."""
    for row in sampled():
        f, conc = row.fields, row.fields["conc"]
        assert row.about["scheduler_recv_interval"] == ("30" if conc >= 16 else "10")
        assert (f["num_prompts"], f["range_ratio"]) == (10 * conc, 0.8)
        assert (f["radix_cache"], f["cuda_graph_max_bs"]) == (False, conc)
        assert f["tp"] in (4, 8)


def test_rates_are_what_the_latencies_give() -> None:
    """Neither the sample nor the laboratory prints a rate: both are the closed loop's."""
    some = [row for row in serving_rows() if row.source in (SAMPLE, LAB)]
    assert len(some) >= 120
    for row in some:
        osl = row.fields["osl"] * (1 + row.fields.get("range_ratio", 1.0)) / 2
        answer = row.metrics["mean_ttft_ms"] + row.metrics["mean_tpot_ms"] * (osl - 1)
        rate = row.fields["conc"] * osl / answer * 1e3
        assert row.metrics["output_throughput"] == pytest.approx(rate, rel=1e-3)
        assert row.rel_err["output_throughput"] >= 0.04  # derived


def test_lengths_of_bench_serving_are_those_of_its_seed() -> None:
    """SGLang's tool draws its random lengths from seed 1: the pages' totals come out exactly."""
    drawn = [row for row in serving_rows() if row.source == "SGL_COOKBOOK_CODER_NEXT"]
    assert len(drawn) == 9
    for row in drawn:
        f = row.fields
        assert f["range_ratio"] == 0
        rng = np.random.RandomState(1)
        means = [rng.randint(1, f[side] + 1, f["num_prompts"]).mean() for side in ("isl", "osl")]
        assert row.about["notes"] == f"means {means[0]:.1f} in, {means[1]:.1f} out"


def test_other_tools_on_the_same_rows() -> None:
    errors: dict[tuple[str, str], list[list[float]]] = {}
    for row in sampled():
        found = [row.metrics[n] for n in ("mean_ttft_ms", "mean_tpot_ms", "output_throughput")]
        for peer in peers_of(row):
            said = (peer.ttft_ms, peer.tpot_ms, peer.output_tok_s)
            off = [abs(a / b - 1) for a, b in zip(said, found, strict=True)]
            errors.setdefault((row.fields["gpu"], peer.tool), []).append(off)
    assert {key: len(rows) for key, rows in errors.items()} == {
        key: 20 if key[0] == "b300" else 16 for key in PUBLISHED_SUMMARY
    }
    for key, rows in errors.items():
        assert 100 * np.mean(rows, axis=0) == pytest.approx(PUBLISHED_SUMMARY[key], abs=0.06)
    assert peers_of(serving_rows()[0]) == ()


def test_no_fit_reads_a_row_that_tests() -> None:
    """The fit itself refuses it, whoever asks."""

    def row_of(observation: Observation) -> Row:
        nothing = np.full(len(METRICS), np.nan)
        return Row(observation, Scenario.parse(**observation.fields), nothing, nothing)

    rows = [row_of(open_rows()[0]), row_of(sampled()[0])]
    with pytest.raises(UsageError, match=r"^1 of 2 rows to fit have the role test, such as \w+"):
        fit(rows, engine=load_engine(ENGINE), name="x")
    plain = replace(rows[1].observation, about={})
    assert role_of(plain) == "open"  # a user's own rows have no role
