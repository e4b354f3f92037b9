"""A user's engine sheet: every missing, misspelt or mistyped key is one line that names it."""

import re
from pathlib import Path

import pytest

import dflash_sim.profiles
from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.releases.engine_sheet import EngineSheet, load_engine
from dflash_sim.profiles.releases.server_levels import FACTORS

SHIPPED = Path(dflash_sim.profiles.__path__[0]) / "engines" / "sglang-0.5.14.toml"
TEXT = SHIPPED.read_text(encoding="utf-8")


@pytest.fixture
def sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a sheet of the user's, called ``mine-1``."""
    (tmp_path / "engines").mkdir()
    monkeypatch.setenv("DFLASH_SIM_PROFILES", str(tmp_path))
    return tmp_path / "engines" / "mine-1.toml"


def load(path: Path, text: str) -> EngineSheet:
    path.write_text(text, encoding="utf-8")
    return load_engine(path.stem)


def test_the_shipped_sheet_under_another_name_is_the_same(sheet: Path) -> None:
    mine, ours = load(sheet, TEXT), load_engine(SHIPPED.stem)
    assert mine.si == ours.si
    assert (mine.defaults, mine.fit, mine.attention) == (ours.defaults, ours.fit, ours.attention)


LEVELS = "[fit.priors.levels"
KEYS = re.findall(r"^(\w+) = ", TEXT.partition("[defaults]")[2].partition(LEVELS)[0], re.MULTILINE)


@pytest.mark.parametrize("key", sorted(set(KEYS) - {"source"}))
def test_a_missing_key_is_named(sheet: Path, key: str) -> None:
    entry = re.search(rf"^{key} = (?:\[\n(?:    .*\n)*\]|.*)$", TEXT, re.MULTILINE)
    assert entry is not None
    of_an_op = ("qk_norm_rope", "attention = 2", "output_gate", "gdn_chunk", "routed_experts")
    of_an_op += ("sparse_attention",)
    pages = ("trtllm_m", "flashmla", "cutlass_mla", "dsa", "dsv4", "nsa", "fa3", "fa4", "aiter")
    optional = entry.group().startswith(("b2", "b3", "gb", "h1", "h2", "h8", "mi3", *pages))
    optional = optional or entry.group().startswith(of_an_op)
    text = TEXT.replace(entry.group() + "\n", "", 1)
    if optional:  # an entry of an open table, by GPU or backend
        load(sheet, text)
        return
    with pytest.raises(UsageError, match=rf"mine-1\.toml.* lacks '{key}'; add it"):
        load(sheet, text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "page_size = 1\n",
            "page_sise = 1\n",
            "unknown key of .*'page_sise'; did you mean page_size",
        ),
        (
            "page_size = 1\n",
            'page_size = "1"\n',
            "page_size is '1'; it must be a whole number",
        ),
        ("page_size = 1\n", "page_size = 1.5\n", "page_size is 1.5; it must be a whole number"),
        (
            "keeps_up_share = 0.9",
            "keeps_up_share = nan",
            "keeps_up_share is nan; it must be",
        ),
        (
            "[constants.small_kernel]",
            "[constants.smal_kernel]",
            "unknown constant .*'smal_kernel'",
        ),
        ('unit = "us"', 'unit = "minutes"', "unknown unit of .*constants.graph_node_gap"),
        ('    "expert_skew",\n', '    "expert_skw",\n', "unknown constant of .*fit.*'expert_skw'"),
        ("discrepancy = [0.03, 0.01]", "discrepancy = [0.03]", "discrepancy is .*a list of 2"),
        ("[fit.priors]", "[fit.prior]", "unknown key of .*fit 'prior'; did you mean priors"),
        ("spec = [[1, 8, 1]", "spec = [[1, 8]", "a list of 3"),
        ("spec = [[1, 8, 1]", "spec = [[1, 8, 0]", r"graph_sizes.spec: give \[start, stop, step\]"),
        ('formula = "joint"', 'formula = "jiont"', "unknown formula of .*did you mean joint"),
        ('draft_kv = "as-target"', 'draft_kv = "mine"', "unknown draft_kv of .*as-target"),
        ('prefill_graphs = "text"', 'prefill_graphs = "txt"', "did you mean text"),
        ("extra_buffer = 5", "extra_buffer = 0", "slots, extra_buffer is 0; 1 or more"),
        (
            "extra_buffer_lazy = 4",
            "extra_buffer_lazy = -1",
            "lazy is -1; .* whole number from 0",
        ),
        (
            "draft = 0 ",
            "draft = -1 ",
            "outside_static, draft is -1.*; .* number from 0",
        ),
        ("least = 0.8", "least = 1.2", "defaults.vision: every size is above 0"),
        ("spare_slot = false", "spare_slot = 0", "spare_slot is 0; it must be true or false"),
        ("retract_decode_steps = 20", "retract_decode_steps = -1", "retract_decode_steps is -1"),
        ("ratio_decay_steps = 600", "ratio_decay_steps = 0", "decay_steps is 0; it must be above"),
        ("trtllm_mha = 64", "trtllm_mha = 0", "a page holds 1 token or more"),
        ("value = 0.30", "value = -9", r"graph_node_gap, value is -9; .* from 0"),
        (
            "[constants.time_factor]\nvalue = 1.0",
            "[constants.time_factor]\nvalue = 1e-30",
            "time_factor.* 1e-30 1; it must be from 0.0001 to 10000",
        ),
        ("value = 5.5", "value = 1e-9", "l2_rate.* 1e-09 TB/s; it must be from 1e-06 to 1000"),
        ('b200 = "trtllm_mha"', 'b200 = "trtlm_mha"', "unknown attention backend .*trtlm_mha"),
        ('other = "flashinfer"', 'other = "flashinver"', "did you mean flashinfer"),
        ('evidence = "assumed"', 'evidence = "asumed"', "unknown evidence .*did you mean assumed"),
    ],
)
def test_a_wrong_key_is_one_line(sheet: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(UsageError, match=says) as caught:
        load(sheet, TEXT.replace(old, new, 1))
    assert "\n" not in str(caught.value)


def test_a_missing_constant_is_named(sheet: Path) -> None:
    text = re.sub(r"\[constants\.d2h_sync\]\n(?:\w+ = .*\n)+", "", TEXT)
    with pytest.raises(UsageError, match=r"lacks \[constants\.d2h_sync\]; copy it from"):
        load(sheet, text)


def test_the_command_says_it_in_one_line(sheet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet.write_text(TEXT.partition("[fit]")[0], encoding="utf-8")
    assert run(["predict", "--engine", "mine-1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "mine-1.toml lacks 'fit'" in said


class TestExtends:
    """A sheet of a few lines over its neighbour."""

    def test_it_says_only_what_changed(self, tmp_path: Path) -> None:
        write(tmp_path, "newer", 'extends = "sglang-0.5.14"\nname = "newer"\n[modes]\nblock = "v1"')
        with searching([tmp_path]):
            newer, home = load_engine("newer"), load_engine("sglang-0.5.14")
        assert newer.constants == home.constants
        assert (newer.modes["block"], newer.modes["chain"]) == ("v1", home.modes["chain"])

    def test_two_that_extend_each_other_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "a", 'extends = "b"')
        write(tmp_path, "b", 'extends = "a"')
        with searching([tmp_path]), pytest.raises(UsageError, match="extends it again"):
            load_engine("a")

    def test_what_it_extends_must_be_there(self, tmp_path: Path) -> None:
        write(tmp_path, "a", 'extends = "sglang-9"')
        with searching([tmp_path]), pytest.raises(UsageError, match="extends 'sglang-9'"):
            load_engine("a")


def write(folder: Path, name: str, text: str) -> None:
    (folder / "engines").mkdir(exist_ok=True)
    (folder / "engines" / f"{name}.toml").write_text(text + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("factor", "level"), [(name, level) for name, f in FACTORS.items() for level in f.levels]
)
def test_every_level_of_every_factor_has_a_prior(sheet: Path, factor: str, level: str) -> None:
    head, table, rest = TEXT.partition(f"[fit.priors.levels.{factor}]")
    text = head + table + re.sub(rf"^{level} = .*\n", "", rest, count=1, flags=re.MULTILINE)
    with pytest.raises(UsageError, match=rf"levels\.{factor} lacks '{level}'; add it"):
        load(sheet, text)
