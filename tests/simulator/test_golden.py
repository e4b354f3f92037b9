"""Predictions do not move unnoticed: twenty questions and their answers, to nine digits.

After a change that is meant to move them, ``python tests/simulator/test_golden.py`` writes the new
answers and prints what moved, for "Predictions changed" in CHANGELOG.md.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario

ANCHORS = Path(__file__).parents[1] / "golden" / "anchors.csv"
ANSWER = "output_throughput"
TOLERANCE = 1e-9
Row = dict[str, str]
Drift = tuple[str, float, float]  # name, golden, now [token/s]


def load() -> list[Row]:
    with ANCHORS.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def answer(row: Row) -> float:
    """Throughput of one run from seed 0 [token/s]; blank fields take their defaults."""
    fields = {k: v for k, v in row.items() if v and k not in ("name", ANSWER)}
    result = predict(Scenario.parse(**fields, runs=1, seed=0), with_baseline=False)
    return result.values[ANSWER]


def moved(rows: Sequence[Row], answers: Sequence[float]) -> list[Drift]:
    """Anchors whose answer is another one than written down."""
    pairs = [(row["name"], float(row[ANSWER]), now) for row, now in zip(rows, answers, strict=True)]
    return [(name, was, now) for name, was, now in pairs if abs(now - was) > TOLERANCE * was]


def drift_table(drifts: Sequence[Drift]) -> str:
    """What moved, as the Markdown that belongs into the change log."""
    lines = [
        f"| {name} | {was:.1f} | {now:.1f} | {now / was - 1:+.2%} |" for name, was, now in drifts
    ]
    return "\n".join(["| Anchor | Was tok/s | Is tok/s | Drift |", "|---|---|---|---|", *lines])


def test_predictions_are_the_golden_ones() -> None:
    rows = load()
    drifts = moved(rows, [answer(row) for row in rows])
    if drifts:
        advice = (
            'If this is meant, paste it under "Predictions changed" in CHANGELOG.md (at least what '
            "moved by more than 1 %) and run `python tests/simulator/test_golden.py`."
        )
        pytest.fail(
            f"{len(drifts)} of {len(rows)} predictions moved.\n{drift_table(drifts)}\n{advice}"
        )


def test_anchors_cover_what_there_is() -> None:
    rows = load()
    seen = {name: {row[name] for row in rows} for name in rows[0]}
    assert len(seen["name"]) == len(rows) >= 20
    assert seen["method"] >= {"none", "mtp", "eagle3", "injection-only", "diffusion-only"}
    assert seen["engine_mode"] >= {"v1", "v2-sync"}
    assert len(seen["gpu"]) >= 5
    assert len(seen["model"]) >= 6


def test_a_drift_is_seen() -> None:
    row = {"name": "a", ANSWER: "1000.0"}
    assert not moved([row], [1000.0])
    assert moved([row], [1000.0 * (1 + 2 * TOLERANCE)])
    assert "| a | 1000.0 | 1020.0 | +2.00% |" in drift_table(moved([row], [1020.0]))


def main() -> None:
    """Write the answers of today and print what moved."""
    rows = load()
    answers = [answer(row) for row in rows]
    print(
        drift_table(
            moved(
                [r for r in rows if r[ANSWER]],
                [a for r, a in zip(rows, answers, strict=True) if r[ANSWER]],
            )
        )
    )
    with ANCHORS.open("w", encoding="utf-8", newline="") as lines:
        out = csv.DictWriter(lines, rows[0], lineterminator="\n")
        out.writeheader()
        out.writerows(row | {ANSWER: repr(now)} for row, now in zip(rows, answers, strict=True))


if __name__ == "__main__":
    main()
