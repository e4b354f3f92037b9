"""What a call takes: Python values, several of them, where to start from; and what it refuses."""

import inspect
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from questions import SMALL

import dflash_sim as ds
from dflash_sim.api.question import START, Question
from dflash_sim.commands.options import INTERVALS, SIMULATORS
from dflash_sim.commands.scenario_options import ScenarioOptions
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask import answers

LAUNCH = "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp-size 1"
OUR_FLAG = rf"--({'|'.join(n.replace('_', '-') for n in Scenario.model_fields)})\\b"
QUICK: dict[str, Any] = {"baseline": False, "interval": False}


def test_keywords_are_the_fields_and_flags() -> None:
    fields = list(Question.__annotations__)
    assert fields == [*Scenario.model_fields, *START]
    assert set(ScenarioOptions.__annotations__) <= set(fields)
    for name in ("predict", "sweep", "plan", "explain", "trace", "tune", "scenario", "config"):
        assert set(fields) <= set(inspect.signature(getattr(ds, name)).parameters), name


def test_choices_are_those_of_the_command_line() -> None:
    assert answers.SIMULATORS == SIMULATORS
    assert answers.INTERVALS == INTERVALS


@pytest.mark.parametrize(
    "conc",
    [[1, 2, 4], range(1, 5), (1, 4), {2}, np.array([4, 2]), pd.Series([1, 2]), "1-4:x2", "2,1",
     (n for n in (1, 2)), [np.int64(2)], [1, 1]],
    ids=lambda conc: "generator" if inspect.isgenerator(conc) else repr(conc),
)  # fmt: skip
def test_several_values_are_a_table(conc: Any) -> None:
    wanted = {"1-4:x2": [1, 2, 4], "2,1": [2, 1]}
    values = list(conc) if inspect.isgenerator(conc) else conc
    expected = wanted[conc] if isinstance(conc, str) else list(dict.fromkeys(map(int, values)))
    found = ds.predict(**SMALL, conc=values, **QUICK)
    assert isinstance(found, pd.DataFrame)
    assert found["max_concurrency"].tolist() == expected


@pytest.mark.parametrize("conc", [2, "2", np.int64(2), 2.0], ids=repr)
def test_one_value_is_a_result(conc: Any) -> None:
    assert ds.predict(**SMALL, conc=conc, **QUICK).max_concurrency == 2


def test_any_field_takes_several_values() -> None:
    found = ds.predict(**SMALL, page_size=[1, 16], radix_cache=[True, False], **QUICK)
    assert len(found) == 4
    assert len(ds.sweep(**SMALL, page_size=[1, 16], radix_cache=[True, False], **QUICK)) == 4


@pytest.mark.parametrize(
    "names",
    [{"gpu": ["b200", "B200"]}, {"gpu": "b200,B200"}, {"model": ["qwen3-8b", "Qwen/Qwen3-8B"]},
     {"engine": ["sglang-0.5.14", "SGLANG-0.5.14"]}],
    ids=str,
)  # fmt: skip
def test_two_spellings_are_one_value(names: dict[str, Any]) -> None:
    """The control is another sheet, which is another value."""
    assert len(ds.sweep(**SMALL | names, **QUICK)) == 1
    assert len(ds.predict(**SMALL | {"gpu": ["b200", "B200", "h200"]}, **QUICK)) == 2


def test_engine_names_work() -> None:
    own = {n: v for n, v in SMALL.items() if n not in ("isl", "osl")}
    found = ds.scenario(**own, random_input_len=256, random_output_len=64, max_concurrency=3)
    assert found == ds.scenario(**SMALL, conc=3)
    with pytest.raises(ds.UsageError, match="max_concurrency means conc, which is given too"):
        ds.scenario(conc=1, max_concurrency=2)


def test_a_switch_of_the_engine_turns_a_field_off() -> None:
    assert ds.scenario(disable_radix_cache=True) == ds.scenario(radix_cache=False)
    assert ds.scenario(disable_radix_cache=False) == ds.scenario(radix_cache=True)
    named = ds.scenario(mamba_scheduler_strategy="extra_buffer")
    assert named == ds.scenario(mamba_radix_cache_strategy="extra_buffer")


@pytest.mark.parametrize("ask", [ds.predict, ds.sweep])
def test_what_a_grid_leaves_out_is_a_warning(ask: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match="beside them method none runs in v2"):
        found = ask(**SMALL, method=["none", "dflash"], engine_mode="v1", **QUICK)
    assert found["engine_mode"].tolist() == ["v2", "v1"]


def test_where_to_start_from(tmp_path: Path) -> None:
    """Keywords come before a config, a config before a launch command, and that before a preset."""
    with pytest.raises(ds.UsageError, match="has no flag --enable-riddles"):
        ds.scenario(from_launch=f"{LAUNCH} --enable-riddles", conc=2)
    found = ds.scenario(from_launch=LAUNCH, conc=2)
    assert (found.model, found.tp, found.conc) == ("qwen3-8b", 1, 2) or found.model.endswith("8B")
    path = tmp_path / "mine.yaml"
    path.write_text(ds.config(**SMALL, conc=4), encoding="utf-8")
    for config in (path, str(path), SMALL | {"conc": 4}, {"scenario": SMALL | {"conc": 4}},
                   ds.scenario(**SMALL, conc=4)):  # fmt: skip
        assert ds.scenario(config) == ds.scenario(**SMALL, conc=4)
        assert ds.scenario(config, rate=2) == ds.scenario(**SMALL, rate=2)
        assert ds.scenario(config, preset="lmsys-2026-06-15").gpu == "b200"
    assert yaml.safe_load(ds.config(conc=[1, 2]))["scenario"]["conc"] == [1, 2]


def test_a_study_is_swept(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    content = {"scenario": SMALL, "grid": {"conc": "1-4:x2", "block": [8, 16]}}
    study.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = ds.sweep(study, block=8, **QUICK)
    assert found["block"].tolist() == [8, 8, 8]
    assert found["max_concurrency"].tolist() == [1, 2, 4]


def test_a_study_is_no_preset(tmp_path: Path) -> None:
    """Its grid would be passed over."""
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump({"scenario": SMALL, "grid": {"conc": [1, 2]}}), encoding="utf-8"
    )
    for question in ({"config": study}, {"preset": study}, {"config": str(study)}):
        with pytest.raises(ds.UsageError, match=r"'dflash-sim sweep study\.yaml'"):
            ds.predict(**question)
    study.write_text(yaml.safe_dump({"scenario": SMALL, "nonsense": 3}), encoding="utf-8")
    with pytest.raises(ds.UsageError, match="unknown key 'nonsense' beside 'scenario'"):
        ds.predict(study)


def test_a_folder_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    question = SMALL | {"conc": [1, 2]}
    half = ds.sweep(**question, **QUICK, folder=folder, shard="1/2")
    assert half["max_concurrency"].tolist() == [1]
    assert not (folder / "rows.csv").exists()
    ds.sweep(**question, **QUICK, folder=folder, shard="2/2")
    whole = ds.sweep(**question, **QUICK, folder=folder)
    assert len(whole) == 2
    assert (folder / "rows.csv").is_file()
    with pytest.raises(ds.UsageError, match="holds 2 of the 2 points"):
        ds.sweep(**question, **QUICK, folder=folder, resume=False)
    with pytest.raises(ds.UsageError, match="holds another study"):
        ds.sweep(**question | {"conc": [1, 3]}, **QUICK, folder=folder)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ds.predict(gpu="b20"), "unknown GPU 'b20'. Nearest of "),
        (lambda: ds.predict(gpuu="b200"), "unknown keyword 'gpuu'; did you mean gpu?"),
        (lambda: ds.predict(conc=0), "conc=0: input should be greater than or equal to 1"),
        (lambda: ds.predict(conc=[]), "conc: an empty list"),
        (lambda: ds.predict(seed=[]), "seed: an empty list"),
        (lambda: ds.predict(conc="1-x"), "conc='1-x': '1-x' is not a whole number above 0"),
        (lambda: ds.predict(conc=1, rate=2), "exclude each other"),
        (lambda: ds.predict(conc=object()), "conc "),
        (lambda: ds.predict(simulator="fast"), "unknown simulator 'fast'"),
        (lambda: ds.predict(interval="none"), "interval 'none': it is neither True nor False"),
        (lambda: ds.predict(baseline="no"), "baseline 'no': it is neither True nor False"),
        (lambda: ds.compare("no.csv", interval="none"), "interval 'none': it is neither"),
        (lambda: ds.predict(config=5), "config 5: give a dict of fields"),
        (lambda: ds.predict(conc=True), "conc=True: input should be a whole number"),
        (lambda: ds.predict(conc=[True, 2]), "conc=True: input should be a whole number, not"),
        (lambda: ds.predict("mine"), "config mine: give a dict of fields"),
        (lambda: ds.predict({"scenario": 3}), "'scenario' is 3"),
        (lambda: ds.predict({"scenario": SMALL, "conc": 32}), "unknown key 'conc' beside"),
        (lambda: ds.predict({"scenario": SMALL, "grid": {"conc": [1]}}), "ask ds.sweep("),
        (lambda: ds.predict({"gpuu": 3}), "unknown keyword 'gpuu'"),
        (lambda: ds.predict(config="no.yaml"), "cannot read preset no.yaml"),
        (lambda: ds.predict(profiles="/no/such"), "profiles='/no/such': no such directory"),
        (lambda: ds.explain(conc=[1, 2]), "2 scenarios, of several values of conc"),
        (lambda: ds.sweep(), "nothing to sweep"),
        (lambda: ds.sweep(conc=1, shard="1/2"), "parts need a folder"),
        (lambda: ds.sweep(conc=1, jobs=0), "jobs 0: it is a whole number from 1 on"),
        (lambda: ds.sweep(conc=1, jobs=-1), "jobs -1: it is a whole number from 1 on"),
        (lambda: ds.sweep(conc=1, formats="bogus"), "unknown formats 'bogus'"),
        (lambda: ds.sweep(conc=1, formats="csv"), "files need a folder"),
        (lambda: ds.sweep(gpu=["b200", "b20"]), "unknown GPU 'b20'"),
        (lambda: ds.plan(gpu="b200"), "what is the demand?"),
        (lambda: ds.plan(rate=2, tpot=-1), "tpot=-1: it is a number above 0"),
        (lambda: ds.plan(rate=2, tpot=9, burstiness=[1, 2]), "burstiness: a plan takes one"),
        (lambda: ds.lists("gpu"), "unknown kind of list 'gpu'; did you mean gpus?"),
        (lambda: ds.tune(what="steps"), "the only thing to tune is block"),
        (lambda: ds.compare([]), "no file was named"),
        (lambda: ds.compare(3.0), "give a path or a data frame"),
        (lambda: ds.compare(pd.DataFrame()), "nothing to compare: 1 row read"),
        (lambda: ds.compare("no.csv"), "no.csv: there is no such file"),
        (
            lambda: ds.validate(leave_out="model", fit_on="conc==1"),
            "leave_out excludes fit_on, test",
        ),
        (lambda: ds.fit("none.csv"), "none.csv: there is no such file"),
        (lambda: ds.predict(method="mtp", steps=True), "steps=True: input should be a whole"),
        (lambda: ds.predict(seed=True), "seed=True: input should be a whole number"),
        (lambda: ds.predict(runs=False), "runs=False: input should be a whole number"),
        (lambda: ds.predict(block=True), "block=True: input should be a whole number"),
        (lambda: ds.predict(rate=True), "rate=True: input should be a number"),
        (lambda: ds.fit("no.csv", allow_partial="yes"), "allow_partial 'yes': it is neither"),
        (lambda: ds.validate(allow_partial=1), "allow_partial 1: it is neither True nor"),
        (lambda: ds.validate(progress="no"), "progress 'no': it is neither True nor False"),
        (lambda: ds.fit("no.csv", jobs=True), "jobs True: it is a whole number from 1 on"),
        (lambda: ds.trace(iterations=True), "iterations True: it is a whole number from 1"),
        (lambda: ds.trace(skip=-1), "skip -1: it is a whole number from 0 on"),
        (
            lambda: ds.sweep(conc=1, address="a:1"),
            "address='a:1': what listens there?",
        ),
        (lambda: ds.plan(conc=3), "conc is not for it. Give rate, or trace."),
        (lambda: ds.predict(block=500), "Try block=16."),
        (
            lambda: ds.predict(from_launch=f"{LAUNCH} --page-size x"),
            "from_launch: --page-size x",
        ),
    ],
)
def test_mistakes_are_one_line(call: Any, said: str) -> None:
    with pytest.raises(ds.UsageError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not re.search(OUR_FLAG, str(error.value).partition("from_launch: ")[0])
    if "an empty list" in said:
        assert str(error.value).startswith(said)


def test_profiles_hold_for_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DFLASH_SIM_PROFILES", raising=False)
    sheet = Path(ds.__file__).parent / "profiles/devices/b200.toml"
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices/mine.toml").write_text(
        sheet.read_text(encoding="utf-8").replace("aliases = [", 'aliases = ["x200", '),
        encoding="utf-8",
    )
    (tmp_path / "nodes").mkdir()
    node = (sheet.parent.parent / "nodes/b200x8.toml").read_text(encoding="utf-8")
    (tmp_path / "nodes/mine.toml").write_text(node.replace('"b200"', '"mine"'), encoding="utf-8")
    result = ds.predict(**SMALL | {"gpu": "mine"}, profiles=tmp_path, **QUICK)
    assert result.gpu == "mine"
    assert "DFLASH_SIM_PROFILES" not in os.environ
    assert "mine" in ds.lists("gpus", profiles=[tmp_path])["name"].tolist()
    with pytest.raises(ds.UsageError, match="unknown GPU 'mine'"):
        ds.predict(gpu="mine")
    assert result.explain().result.gpu == "mine"


def test_threads_search_their_own_folders(tmp_path: Path) -> None:
    """Each reads its own sheets, also where others begin or end meanwhile."""
    sheet = Path(ds.__file__).parent / "profiles/devices/b200.toml"
    folders = [tmp_path / f"prof{i}" for i in range(4)]
    for folder in folders:
        (folder / "devices").mkdir(parents=True)
        text = sheet.read_text(encoding="utf-8").replace('title = "', f'title = "{folder.name} ')
        (folder / "devices/b200.toml").write_text(text, encoding="utf-8")

    def title(folder: Path) -> str:
        found = ds.predict(**SMALL | {"gpu": "b200"}, profiles=folder, **QUICK)
        return found.prediction.setup.device.title.split()[0]

    before = dict(os.environ)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(title, folders * 4)) == [f.name for f in folders] * 4
    assert dict(os.environ) == before


def test_processes_search_the_same_folders(tmp_path: Path) -> None:
    sheet = Path(ds.__file__).parent / "profiles/engines/sglang-0.5.14.toml"
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/mine.toml").write_bytes(sheet.read_bytes())
    question = SMALL | {"engine": "mine", "calibration": "none", "conc": [1, 2]}
    found = ds.sweep(**question, profiles=tmp_path, jobs=2, **QUICK)
    assert found["error"].isna().all()
