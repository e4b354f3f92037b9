"""What the asker pays for a GPU: read, refused, and in every figure of money."""

import json
from pathlib import Path
from typing import Any

import pytest

import dflash_sim as ds
from dflash_sim.cli import run
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_device
from dflash_sim.profiles.times.machine_profile import load_measured
from dflash_sim.profiles.units import HOUR_S, MEGA
from dflash_sim.studies.ask.prices import checked_prices, own_prices, paid, priced

SMALL: dict[str, Any] = {
    "model": "qwen3-8b", "gpu": "h200", "tp": 1, "isl": 100, "osl": 30, "num_prompts": 4,
    "runs": 1, "conc": 2,
}  # fmt: skip
FLAGS = [w for name, x in SMALL.items() for w in (f"--{name.replace('_', '-')}", str(x))]
USD = 2.25
PROFILE = {
    "format": "dflash-sim profile", "version": 1, "machine": {"device": "cpu"},
    "device": {"title": "a machine", "mem_bytes": 6.4e10, "copy_byte_s": 2e10,
               "matmul_flop_s": 1e11, "sheet": None},
    "host": {"eager_launch_s": 1e-6}, "passes": [], "skipped": [],
    "scope": {"model": "qwen3-8b", "drafter": None, "tp": 1, "dtype": "float32"},
    "made": {"on": "2026-11-22", "seconds": 1.0, "quick": True, "drift": 0.0},
    "ops": [{"kind": "Gemm", "shape": {"n": 64, "k": 32, "m": m}, "seconds": m * 1e-5,
             "mean_s": m * 1e-5, "spread": 0.02, "nbytes": 1e6, "flops": 1e6} for m in (1, 4)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["b200"], "give GPU=USD"), (["b200=-1"], "above 0"), (["b200=x"], "above 0"),
     (["b200=1", "B200=2"], "given twice"), (["b2000=1"], "unknown GPU"),
     (["h200=1"], "no server that is asked about is on h200, they are on b200")],
)  # fmt: skip
def test_prices_that_are_none_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        checked_prices(texts, ["B200"])


def test_names_of_a_gpu_mean_one() -> None:
    assert checked_prices(["B200=4.50"], ["b200"]) == own_prices({"b200": 4.5}) == {"b200": 4.5}
    assert paid({"b200": 4.5, "h200": 2}) == "b200 at 4.5 USD/h as given, h200 at 2 USD/h as given"
    assert priced(load_device("h200"), {"b200": 1}) == load_device("h200")


def test_a_measured_gpu_has_the_price_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "mine.profile"
    path.write_text(json.dumps(PROFILE), encoding="utf-8")
    mine = load_measured(path).as_device()
    own = checked_prices({"b200": 4, str(path): 3}, ["b200", str(path)])
    assert own == {"b200": 4, mine.name: 3}
    assert priced(mine, own).price.typical == 3
    with pytest.raises(UsageError, match=f"they are on {mine.name};"):
        checked_prices({"b200": 4}, [str(path)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """The same question at list prices and at one's own, and how else the latter is asked."""
    folder, found = tmp_path_factory.mktemp("prices"), {}
    own = ["--price", f"H200={USD}"]
    for name, more in (("list", []), ("own", own)):
        path = folder / f"{name}.json"
        assert run(["predict", *FLAGS, *more, "--interval", "none", "-o", str(path)]) == 0
        found[name] = json.loads(path.read_text())
    found["python"] = ds.predict(**SMALL, interval=False, price={"h200": USD}).row
    sets = [w for name, x in SMALL.items() for w in ("--set", f"{name}={x}")]
    at = folder / "runs"
    words = ["sweep", *sets, *own, "--interval", "none", "--jobs", "1", "-o", str(at)]
    page = folder / "page.html"
    assert run([*words, "--html", str(page)]) == 0
    found["sweep"] = json.loads((at / "rows.jsonl").read_text())
    assert "with h200 at 2.25 USD/h as given" in page.read_text(encoding="utf-8")
    assert (
        run(["sweep", *sets, "--interval", "none", "--jobs", "1", "-o", str(at), "--resume"]) == 2
    )
    return found


def test_a_million_tokens_cost_the_hours_they_take(rows: dict[str, dict[str, object]]) -> None:
    row = rows["own"]
    want = USD / (float(str(row["output_throughput"])) * HOUR_S / MEGA)
    cost = row["usd_per_mtok_out"]
    assert cost == pytest.approx(dict.fromkeys(("low", "typical", "high"), want), abs=1e-6)
    assert row["usd_per_hour"] == dict.fromkeys(("low", "typical", "high"), USD)


def test_nothing_but_money_changes(rows: dict[str, dict[str, object]]) -> None:
    changed = {n for n, x in rows["own"].items() if rows["list"][n] != x}
    assert changed == {"usd_per_hour", "usd_per_mtok_out"}


@pytest.mark.parametrize("door", ["python", "sweep"])
def test_every_door_takes_it(rows: dict[str, dict[str, object]], door: str) -> None:
    assert rows[door] == rows["own"]


def test_pages_say_whose_price_it_is(tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    asked = [*FLAGS, "--no-baseline", "--interval", "none", "--price", f"h200={USD}"]
    assert run(["predict", *asked, "-o", str(path)]) == 0
    assert f"at {USD} USD/h for a GPU, as given, per million output tokens" in path.read_text()
    assert run(["predict", *asked, "--conc", "1,2", "-o", str(path)]) == 0
    assert f"h200 at {USD} USD/h as given" in " ".join(path.read_text().split())


def test_memory_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", *FLAGS, "--memory", "--price", "h200=2"]) == 2
    assert "leave --price out" in capsys.readouterr().err
