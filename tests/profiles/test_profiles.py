"""Every sheet parses, every number says where it is from, and published tables are whole."""

import csv
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from math import erf, exp, log, sqrt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dflash_sim.profiles.errors import MissingProfileError, UsageError
from dflash_sim.profiles.find import ENV, FOLDERS, read_sheet
from dflash_sim.profiles.load import (
    default_drafter,
    default_node,
    load_acceptance,
    load_dataset,
    load_device,
    load_drafter,
    load_eagle3,
    load_model,
    load_node,
    load_published,
    load_survival,
    names,
    sheet_names,
)
from dflash_sim.profiles.networks.drafters import dflash_like, eagle3_like
from dflash_sim.profiles.quantity_sheet import quantities
from dflash_sim.profiles.sheets import EVIDENCE, UNITS, AcceptancePoint, SurvivalPoint
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.simulator.setup import resolve

BUILT_IN = Path(str(files("dflash_sim.profiles")))
TOMLS = sorted(
    p
    for kind in ("gpus", "nodes", "datasets")
    for p in (BUILT_IN / FOLDERS[kind][0]).glob("*.toml")
)
JSONS = sorted([*(BUILT_IN / "models").glob("*.json"), *(BUILT_IN / "drafters").glob("*.json")])
CARDS = {"gsm8k", "math500", "humaneval", "mbpp", "mt-bench"}


def numbers(raw: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every bare number in a parsed sheet."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from numbers(value, (*path, key))
    elif isinstance(raw, list):
        for value in raw:
            yield from numbers(value, path)
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        yield path


# -- sheets


@pytest.mark.parametrize("path", TOMLS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_number_without_unit_source_and_evidence(path: Path) -> None:
    raw = read_sheet(path)
    found = quantities(raw, path)
    for q in found.values():
        assert q.unit in UNITS
        assert q.evidence in EVIDENCE
        assert len(q.source) > 5
        assert 0 <= q.rel_err < 1
        assert q.evidence != "assumed" or q.rel_err > 0, f"{path}: how sure is {q}?"
    bare = [key for key in numbers(raw) if key[-1] != "rel_err"]
    assert len(bare) == len(found), f"{path}: a number that no quantity holds"


@pytest.mark.parametrize("path", JSONS, ids=lambda p: p.stem)
def test_every_config_says_where_it_is_from(path: Path) -> None:
    raw = read_sheet(path)
    assert len(raw["_source"]) > 10
    assert raw["_status"]
    if path.parent.name == "drafters":
        assert load_model(raw["target"])


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"value": 1, "unit": "TB/s", "evidence": "datasheet"}, "no source"),
        ({"value": 1, "unit": "TB/s", "evidence": "datasheet", "source": " "}, "no source"),
        ({"value": 1, "unit": "furlong", "evidence": "datasheet", "source": "x"}, "unit is"),
        ({"value": 1, "evidence": "datasheet", "source": "x"}, "unit is None"),
        ({"value": 1, "unit": "s", "evidence": "gossip", "source": "x"}, "evidence is 'gossip'"),
        ({"value": "1", "unit": "s", "evidence": "assumed", "source": "x"}, "value is '1'"),
        ({"value": True, "unit": "s", "evidence": "assumed", "source": "x"}, "value is True"),
    ],
)
def test_a_careless_number_is_refused(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        quantities({"mem_bw": table}, Path("mine.toml"))


TOML_VALUES = st.sampled_from(
    ["1", "-1", "0", "nan", "inf", "1e400", "true", '"x"', "[1]", "{}", '"TB/s"', '"assumed"']
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(line=st.integers(0, 70), value=TOML_VALUES, cut=st.booleans())
def test_a_damaged_sheet_is_refused_in_words(
    tmp_path: Path, line: int, value: str, cut: bool
) -> None:
    """One line changed or cut: the sheet still loads or the complaint names it."""
    for folder, name, load in (
        ("devices", "b200", load_device),
        ("nodes", "b200x8", load_node),
        ("workloads", "gsm8k", load_dataset),
    ):
        lines = (BUILT_IN / folder / f"{name}.toml").read_text().splitlines()
        at = line % len(lines)
        key, equals, _ = lines[at].partition(" = ")
        lines[at] = "" if cut or not equals else f"{key} = {value}"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "damaged.toml").write_text("\n".join(lines))
        try:
            load("damaged", (tmp_path,))
        except UsageError as error:
            assert "damaged.toml" in str(error)  # noqa: PT017


def test_every_name_loads() -> None:
    loaders = {
        "gpus": load_device,
        "nodes": load_node,
        "models": load_model,
        "drafters": load_drafter,
        "eagle3": load_eagle3,
        "datasets": load_dataset,
    }
    assert set(loaders) == set(FOLDERS)
    for kind, load in loaders.items():
        assert names(kind)
        for name in names(kind):
            assert load(name).name == name


def test_device_in_si() -> None:
    b200 = load_device("b200")
    assert b200.bf16_flop_s == 2.25e15
    assert b200.mem_bw_byte_s == pytest.approx(7.7e12)
    assert b200.mem_bytes == 180 * 2**30
    assert b200.link_byte_s == 9e11
    assert (b200.sm_count, b200.tdp_w, b200.mem_bw_eff) == (148, 1000, 0.8)
    assert (b200.price.low, b200.price.typical, b200.price.high) == (4.5, 6.0, 10.57)
    assert b200.quantities["bf16"].unit == "TFLOP/s"


def test_devices_are_plausible() -> None:
    for name in names("gpus"):
        gpu = load_device(name)
        assert (gpu.price.low is None) == (gpu.price.source == "")
        ridge = gpu.bf16_flop_s / gpu.mem_bw_byte_s
        # FLOP per byte where compute and memory take as long; the exported H20 has few FLOP, and
        # Thor the tensor cores of a data centre beside the memory of a laptop.
        assert (
            (30 if name in ("h20", "h20_3e") else 70)
            < ridge
            < (1000 if name == "jetson_thor" else 500)
        ), name
        price = gpu.price
        have = [p for p in (price.low, price.typical, price.high) if p is not None]
        assert have == sorted(have)
        assert default_node(name).device == name


def test_nvlink_domains() -> None:
    assert default_node("gb200").num_gpus == default_node("gb300").num_gpus == 72
    assert default_node("b200").num_gpus == 8


# -- names


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3.5-397B-A17B", "qwen3.5-397b-a17b", "QWEN3.5-397B-A17B"]
)
def test_models_by_any_name(name: str) -> None:
    assert load_model(name).name == "qwen3.5-397b-a17b"
    assert default_drafter(name).name == "qwen3.5-397b-a17b-dflash"


def test_aliases() -> None:
    assert load_device("A100-80").name == "a100"
    assert load_device("rtx-pro-6000").name == "rtx_pro_6000"
    assert load_drafter("modal-labs/Qwen3.5-397B-A17B-DFlash").name == "qwen3.5-397b-a17b-dflash"
    assert load_drafter("z-lab/Qwen3-8B-DFlash-b16").name == "qwen3-8b-dflash"
    assert load_eagle3("Qwen/Qwen3-8B") == load_eagle3("qwen3-8b-eagle3")
    assert load_dataset("MT_Bench").name == "mt-bench"


def test_models_with_a_dflash_drafter_find_it() -> None:
    """Every DFlash drafter is found by its target; a model without one is told what to ask."""
    made = {n.removesuffix("-dflash") for n in names("drafters") if n.endswith("-dflash")}
    without = set(names("models")) - made
    assert made <= set(names("models"))
    assert {"llama-3.3-70b", "qwen3-32b", "qwen3.8-27b"} <= without
    for name in made:
        assert default_drafter(name).name == f"{name}-dflash"
    for name in without:
        with pytest.raises(MissingProfileError, match=r"or ask for --method .*none"):
            default_drafter(name, kinds=("dflash",))


def test_drafters_of_other_kinds_are_found_by_target_and_kind() -> None:
    for name in names("drafters"):
        target, _, kind = name.rpartition("-")
        assert default_drafter(target, kinds=(kind,)) == load_drafter(name)
        assert load_drafter(name).kind == kind
    assert default_drafter("qwen3.8-27b").kind == "dflash2"  # it has no plain one
    assert load_drafter("incoai/Qwen3.8-27B-DFlash2").name == "qwen3.8-27b-dflash2"
    with pytest.raises(MissingProfileError, match=r"no DSpark drafter is known for 'qwen3\.5-4b'"):
        default_drafter("qwen3.5-4b", kinds=("dspark",))


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("moonshotai/Kimi-K2.6", "kimi-k2.5"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3"),
        ("zai-org/GLM-5.1", "glm-5"),
        ("MiniMaxAI/MiniMax-M2", "minimax-m2.5"),
        ("Qwen/Qwen2.5-Coder-14B-Instruct", "qwen2.5-14b"),
        ("someone/kimi-k2.6", "kimi-k2.5"),
    ],
)
def test_a_name_that_stands_for_another_model_says_so(name: str, sheet: str) -> None:
    asked = load_model(name)
    assert asked.name == sheet
    assert f"{name} is taken to have the network of {sheet}" in asked.caution
    assert "taken to have" not in load_model(sheet).caution


@pytest.mark.parametrize(
    "name",
    ["meta-llama/Meta-Llama-3.1-8B-Instruct", "kimi-k2", "unsloth/Qwen3-8B", "Qwen/Qwen3-8B/",
        "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", "deepseek-ai/DeepSeek-V3-0324", "tiny"],
)  # fmt: skip
def test_a_longer_or_shorter_form_of_a_name_says_nothing(name: str) -> None:
    assert "taken to have" not in load_model(name.rstrip("/")).caution


@pytest.mark.parametrize(
    ("name", "sheet", "context"),
    [
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b", 262144),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b", 40960),
        ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2-instruct", 262144),
        ("Qwen/QwQ-32B", "qwen2.5-32b", 40960),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "qwen2.5-14b", 131072),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.3-70b", 131072),
        ("MiniMaxAI/MiniMax-M2.1", "minimax-m2.5", 196608),
        ("unsloth/Qwen3-8B", "qwen3-8b", 40960),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b", 8192),
        ("zai-org/GLM-4.7", "glm-4.7", 202752),
        ("mistralai/Devstral-Small-2507", "mistral-small-24b", 131072),
        ("unsloth/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", 131072),
    ],
)
def test_other_names_of_a_network(name: str, sheet: str, context: int) -> None:
    model = load_model(name)
    assert (model.name, model.context) == (sheet, context)


def test_a_long_list_of_names_is_cut_to_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_model("meta-llama/Llama-5-70B")
    said = str(caught.value)
    assert ": llama-3-70b, " in said
    assert "dflash-sim list models" in said
    assert "config.json" in said
    assert len(said) < 350


def test_unknown_names_suggest() -> None:
    with pytest.raises(UsageError, match=r"unknown GPU 'b20'\. Nearest of \d+: b200, "):
        load_device("b20")
    with pytest.raises(UsageError, match=r"unknown model 'qwen3-8'; did you mean"):
        load_model("qwen3-8")
    with pytest.raises(UsageError, match="unknown kind of sheet 'gpu'; did you mean gpus"):
        names("gpu")
    with pytest.raises(MissingProfileError, match=r"no EAGLE-3 head is known for 'qwen3\.5-4b'"):
        load_eagle3("qwen3.5-4b")


@pytest.mark.parametrize("name", ["qwen3-8b", "llama-3.3-70b", "qwen3-30b-a3b", "qwen3-235b-a22b"])
def test_a_head_is_sized_like_those_of_other_targets(name: str) -> None:
    sized, known = eagle3_like(load_model(name)), load_eagle3(name)
    assert sized is not None
    assert sized.params == pytest.approx(known.params, rel=0.05)
    assert sized.attention.num_kv_heads == known.attention.num_kv_heads


def test_a_head_that_nobody_described_is_sized_and_said() -> None:
    asked = {"method": "eagle3", "steps": 3, "acceptance": "al:2.6", "tp": 4}
    setup = resolve(Scenario.parse(model="glm-4.5-air", **asked))
    said = [w for w in setup.warnings if "no config of an EAGLE-3 head for glm-4.5-air" in w]
    assert len(said) == 1
    assert setup.memory.draft_weight_bytes > 0
    known = resolve(Scenario.parse(model="qwen3-32b", **asked))
    assert not any("EAGLE-3 head" in w for w in known.warnings)


def test_a_drafter_is_sized_like_those_of_other_targets() -> None:
    for name in names("drafters"):
        known = load_drafter(name)
        if known.kind == "dflash":
            sized = dflash_like(load_model(known.target))
            assert sized is not None
            assert sized.params == pytest.approx(known.params, rel=0.6), name
    assert dflash_like(load_model("qwen3-8b")) == replace(
        load_drafter("qwen3-8b-dflash"),
        name="a DFlash drafter sized like qwen3-8b",
        target="qwen3-8b",
        source="sized as most published DFlash drafters of other targets are",
    )


def test_a_drafter_that_nobody_published_is_sized_for_those_who_know_what_it_accepts() -> None:
    for method in ("dflash", "injection-only", "diffusion-only"):  # one message leads all to it
        asked = Scenario.parse(model="deepseek-v3", method=method, acceptance="al:4", tp=8)
        said = "no config of a DFlash drafter for deepseek-v3"
        assert [said in w for w in resolve(asked).warnings].count(True) == 1
    with pytest.raises(MissingProfileError, match="no DSpark drafter"):
        resolve(Scenario.parse(model="deepseek-v3", method="dspark", acceptance="al:4", tp=8))
    with pytest.raises(MissingProfileError, match=r"no DFlash drafter .* --acceptance al:4, or"):
        resolve(Scenario.parse(model="deepseek-v3", tp=8))
    known = resolve(Scenario.parse(model="qwen3-8b", acceptance="al:4"))
    assert not any("DFlash drafter for" in w for w in known.warnings)


def test_a_copy_of_a_config_has_the_drafter_of_its_network(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    text = (BUILT_IN / "models/qwen3-8b.json").read_text()
    path.write_text(text)
    assert default_drafter(str(path)).name == "qwen3-8b-dflash"
    other = tmp_path / "other.json"
    other.write_text(text.replace('"num_hidden_layers": 36', '"num_hidden_layers": 35'))
    assert len(load_model(str(other)).layers) == 35
    with pytest.raises(MissingProfileError, match="Give its own with --draft-model") as caught:
        default_drafter(str(other))
    assert "or ask for --method none" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_model_without_a_drafter_is_told_of_its_own_layer() -> None:
    with pytest.raises(
        MissingProfileError, match=r"--method mtp --steps 3 \(its own layer\).* or none"
    ):
        default_drafter("deepseek-v3")
    with pytest.raises(
        MissingProfileError, match=r"'qwen3-32b'.* ask for --method eagle3 --steps 3 or none"
    ):
        default_drafter("qwen3-32b")


def test_names_are_unambiguous() -> None:
    for kind, (folder, suffix) in FOLDERS.items():
        seen: Counter[str] = Counter()
        for path in (BUILT_IN / folder).glob(f"*{suffix}"):
            raw = read_sheet(path)
            seen.update(
                {path.stem, *(a.lower() for a in raw.get("aliases", raw.get("_aliases")) or [])}
            )
        assert not [name for name, count in seen.items() if count > 1], kind


# -- user folders


def test_user_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    (mine / "devices").mkdir(parents=True)
    text = (BUILT_IN / "devices/b200.toml").read_text().replace("value = 7.7\n", "value = 7.0\n")
    (mine / "devices/b200.toml").write_text(text)
    (mine / "devices/b200-quiet.toml").write_text(text)
    assert load_device("b200", (mine,)).mem_bw_byte_s == pytest.approx(7.0e12)
    assert "b200-quiet" in names("gpus", (mine,))
    assert load_device("b200").mem_bw_byte_s == pytest.approx(7.7e12)
    monkeypatch.setenv(ENV, os.pathsep.join([str(tmp_path), str(mine)]))
    assert load_device("b200").mem_bw_byte_s == pytest.approx(7.0e12)
    assert load_device("h200").name == "h200"
    monkeypatch.setenv(ENV, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match=r"nowhere' does not exist \(from --profiles or"):
        load_device("b200")


def test_user_rows_come_first(tmp_path: Path) -> None:
    (tmp_path / "acceptance").mkdir()
    header = (BUILT_IN / "acceptance/accept_length.csv").read_text().partition("\n")[0]
    row = "mine,mine,dflash,8,gsm8k,yes,0,5.5,cycle,ME,"
    table = tmp_path / "acceptance/accept_length.csv"
    table.write_text(f"{header}\n{row}\n")
    points = load_acceptance((tmp_path,))
    assert points[0].accept_len == 5.5
    assert points[1:] == load_acceptance()
    for bad in (row.replace("8,", "eight,"), "mine,mine", row.replace("yes", "maybe")):
        table.write_text(f"{header}\n{bad}\n")
        with pytest.raises(UsageError, match=r"accept_length.csv, line 2: "):
            load_acceptance((tmp_path,))
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"cannot read .*accept_length.csv"):
        load_acceptance((tmp_path,))
    table.write_text(f"{header}\n{row.replace('8,', 'eight,')}\n", encoding="utf-8-sig")
    with pytest.raises(UsageError, match=r"accept_length.csv, line 2: .*expected columns model"):
        load_acceptance((tmp_path,))


def test_model_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-qwen"
    folder.mkdir()
    (folder / "config.json").write_text((BUILT_IN / "models/qwen3-8b.json").read_text())
    by_folder = load_model(str(folder))
    assert by_folder.name == "my-qwen"
    assert by_folder.params == load_model("qwen3-8b").params
    assert load_model(str(folder / "config.json")) == by_folder
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert dict(load_model(str(folder)).precision.modules)["mlp"] == "nvfp4"
    assert load_model(str(folder / "config.json")).quantized is not None  # and not only at first


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"a": NaN', "\ufeff", "[" * 10_000])
def test_malformed_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="config"):
        load_model(str(path))
    with pytest.raises(UsageError, match="cannot read"):
        load_model(str(tmp_path / "absent.json"))


# -- workloads


@pytest.mark.parametrize(
    ("place", "line", "changed", "load"),
    [
        ("devices/h200.toml", "value = 4.8", "value = 1e-320", load_device),
        (
            "workloads/humaneval.toml",
            "turns = { value = 1,",
            "turns = { value = 1.5,",
            load_dataset,
        ),
        (
            "workloads/humaneval.toml",
            "turns = { value = 1,",
            "turns = { value = 1e-9,",
            load_dataset,
        ),
    ],
)
def test_a_number_too_small_and_a_part_of_a_count_are_refused(
    place: str, line: str, changed: str, load: Callable[..., object], tmp_path: Path
) -> None:
    shipped = Path(str(files("dflash_sim.profiles"))) / place
    text = shipped.read_text(encoding="utf-8")
    assert line in text
    (tmp_path / place).parent.mkdir()
    (tmp_path / place).write_text(text.replace(line, changed), encoding="utf-8")
    with pytest.raises(UsageError, match=r"it must be from|a whole number"):
        load(shipped.stem, (tmp_path,))


def test_card_harness_turns() -> None:
    """Turns served at c=32: 1,319, 1,500, 1,148, 1,028 and 1,120 on the cards."""
    turns = {}
    for name in set(names("datasets")) - {"vp-mixed-v2"}:  # not on a card
        d = load_dataset(name)
        assert d.copies(1) == 1
        turns[name] = d.copies(32) * d.num_prompts * d.turns
    assert turns == {
        "gsm8k": 1319,
        "math500": 1500,
        "humaneval": 1148,
        "mbpp": 1028,
        "mt-bench": 1120,
    }


@pytest.mark.parametrize(
    ("name", "capped"),
    [("gsm8k", 1300), ("math500", 3000), ("humaneval", 2600), ("mbpp", 2300), ("mt-bench", 2000)],
)
def test_thinking_answers_after_the_cap(name: str, capped: float) -> None:
    """E[min(X, cap)] of the log-normal in the sheet is the mean its source speaks of."""
    d = load_dataset(name)
    assert {d.osl[True].mean.evidence, d.osl[False].mean.evidence} == {"assumed"}
    mean, sd = d.osl[True].mean.si, d.osl[True].sd.si
    sigma = sqrt(log(1 + (sd / mean) ** 2))
    z = (log(d.max_new_tokens) - log(mean) + sigma**2 / 2) / sigma
    below, above = 0.5 * (1 + erf((z - sigma) / sqrt(2))), 0.5 * (1 - erf(z / sqrt(2)))
    assert mean * below + d.max_new_tokens * above == pytest.approx(capped, rel=0.03)
    assert exp(log(mean) - sigma**2 / 2) < mean
    assert d.osl[False].mean.si < mean


# -- published tables


def test_published_rows_are_complete() -> None:
    count = Counter(p.source_id for p in load_published())
    assert count["HF_Q36_35B_retrain"] == 70
    assert count["HF_Q35_397B"] + count["HF_Q35_397B_seed"] == 38
    assert count["SGL_PR23000"] == 4
    accept = [p for p in load_published() if p.source_id == "HF_Q36_35B_retrain" and p.accept_len]
    assert len(accept) == 30
    assert {p.conc for p in accept} == {1}


def test_published_seeds() -> None:
    at = {
        (p.conc, p.method, p.block): p.output_tok_s
        for p in load_published()
        if p.model == "qwen3.5-397b-a17b" and p.dataset == "humaneval"
    }
    assert at[1, "none", 1] == 202.9
    assert at[1, "mtp", 8] == 557.9
    assert at[1, "mtp", 16] == 480.5
    assert at[1, "dflash", 16] == 874.6
    assert (at[32, "none", 1], at[32, "dflash", 8], at[32, "dflash", 16]) == (
        2452.7,
        6666.0,
        6783.7,
    )
    modes = {
        (p.conc, p.engine_mode): p.output_tok_s
        for p in load_published()
        if p.source_id == "SGL_PR23000"
    }
    assert modes[1, "spec_v2"] / modes[1, "spec_v1"] == pytest.approx(1.37, abs=0.01)
    assert modes[32, "spec_v2"] / modes[32, "spec_v1"] == pytest.approx(1.34, abs=0.01)


def test_published_rows_can_be_simulated() -> None:
    rows = load_published()
    models = {name: load_model(name) for name in {p.model for p in rows}}
    assert all(load_device(gpu) for gpu in {p.gpu for p in rows})
    for p in rows:
        model = models[p.model]
        assert p.url.startswith("https://"), p.source_id
        assert (p.method == "none") == (p.block == 1) == (p.engine_mode == "none")
        assert p.engine_mode in {"none", "spec_v1", "spec_v2", "unknown"}
        assert p.num_gpus >= p.tp >= 1
        assert p.conc >= 1
        assert p.max_new_tokens > 0
        assert p.output_tok_s > 0
        assert p.accept_len is None or 1 < p.accept_len <= p.block
        assert p.method != "mtp" or model.mtp_layers == 1
        if p.source_id.startswith(("HF_", "SGL_PR2")) and p.dataset != "alpaca":
            assert p.dataset in CARDS
    conditions = Counter(
        (p.source_id, p.drafter, p.method, p.block, p.engine_mode, p.dataset, p.conc, p.notes)
        for p in rows
    )
    assert max(conditions.values()) == 1


def test_faster_with_more_requests_everywhere() -> None:
    """Total throughput rises with concurrency in every published series, as it must."""
    series = defaultdict(dict)
    for p in load_published():
        key = (p.source_id, p.drafter, p.method, p.block, p.engine_mode, p.dataset, p.notes)
        series[key][p.conc] = p.output_tok_s
    assert sum(len(by_conc) > 2 for by_conc in series.values()) > 50
    for key, by_conc in series.items():
        rates = [by_conc[c] for c in sorted(by_conc)]
        assert rates == sorted(rates), key


METHODS = {"dflash", "dflash2", "dspark", "domino", "mtp", "eagle3"}


def test_accept_lengths() -> None:
    points = load_acceptance()
    assert len(points) > 500
    for p in points:
        assert 1 <= p.accept_len <= p.block, p
        assert p.estimator in {"request_mean", "cycle"}
        assert p.method in METHODS | {"eagle3-tree", "ablation"}
        assert p.url.startswith("https://"), p.source_id
        assert load_model(p.model).name == p.model
        if p.method == "dflash" and "dflash@" not in p.drafter and "ablation" not in p.drafter:
            assert load_drafter(p.drafter).target
    assert {p.dataset for p in points} >= CARDS


def test_longer_blocks_accept_more() -> None:
    """A wider verify window never lowers the mean accept length on a card."""
    series = defaultdict(dict)
    for p in load_acceptance():
        if p.source_id.startswith("HF_"):
            series[p.source_id, p.method, p.dataset][p.block] = p.accept_len
    assert len(series) > 30
    for key, by_block in series.items():
        lengths = [by_block[b] for b in sorted(by_block)]
        assert lengths == sorted(lengths), key


def curve(p: AcceptancePoint | SurvivalPoint) -> tuple[object, ...]:
    return (p.source_id, p.model, p.drafter, p.block, p.dataset, p.thinking)


def test_survival_curves_fall_and_start_at_one_draft() -> None:
    curves = defaultdict(list)
    for p in load_survival():
        curves[curve(p)].append(p)
    assert len(curves) > 90
    for key, points in curves.items():
        assert [p.position for p in points] == list(range(1, len(points) + 1)), key
        assert len(points) == points[0].block - 1, key
        values = [p.survival for p in points]
        assert all(0 <= v <= 1 for v in values), key
        assert all(b <= a for a, b in pairwise(values)), key
        assert values[0] < 1, key  # a first value of 1 would be the anchor: positions off by one


def test_survival_sums_to_the_accept_length() -> None:
    """E[tokens per step] = 1 + sum of S_k, between two tables transcribed separately."""
    total: dict[tuple[object, ...], float] = defaultdict(lambda: 1.0)
    for p in load_survival():
        total[curve(p)] += p.survival
    both = [
        (total[curve(p)], p.accept_len)
        for p in load_acceptance()
        if p.estimator == "cycle" and curve(p) in total
    ]
    assert len(both) > 80
    for summed, published in both:
        assert summed == pytest.approx(published, rel=2e-3)


# -- cost of knowing


def test_loading_is_light() -> None:
    """The predict path starts cold: nothing heavy may ride along."""
    code = (
        "import sys; from dflash_sim.profiles.load import load_model; load_model('qwen3-8b');"
        "print(sorted({'numpy', 'pandas', 'scipy', 'pydantic', 'yaml', 'torch'} & {*sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_tables_stay_small() -> None:
    def size(folder: str) -> int:
        return sum(p.stat().st_size for p in (BUILT_IN / folder).iterdir())

    assert size("acceptance") < 190_000
    assert size("published") < 520_000


def test_engine_sheets_can_be_found() -> None:
    assert sheet_names("nowhere", ".toml") == []


def test_every_source_cited_by_id_can_be_followed() -> None:
    """Ids such as VP_GH200_KERNELS, in sheets and pages, have a row with an address."""
    root = Path(__file__).parents[2]
    with (root / "profiles/published/sources.csv").open(encoding="utf-8", newline="") as f:
        known = {row["source_id"]: row["url"] for row in csv.DictReader(f)}
    pages = [*root.glob("profiles/engines/*.toml"), *root.glob("docs/explanation/*.md")]
    cited = {
        word
        for page in pages
        for word in re.findall(r"\b(?:VP|MODAL|HF|SGL|PAPER|LAMBDA)_\w+", page.read_text("utf-8"))
    }
    assert len(cited) > 5
    assert {word for word in cited if not known.get(word, "").startswith("https://")} == set()
