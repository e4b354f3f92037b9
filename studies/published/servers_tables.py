"""Findings about servers away from home, as plain tables, and the figures that pages quote."""

from collections.abc import Iterator, Mapping

import pandas as pd

from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.calibrate.observations.servers import measured_on
from dflash_sim.profiles.releases.calibration import Calibration
from dflash_sim.profiles.releases.server_levels import FACTORS
from dflash_sim.studies.published.findings import Findings
from dflash_sim.studies.published.level_spread import Scale
from dflash_sim.studies.published.serving_rows import peers_of, rows_that_test
from dflash_sim.studies.show.figures import percent, signed
from dflash_sim.studies.show.plain_table import Table

SPEED, TPOT, TTFT = "throughput", "tpot_ms", "ttft_ms"
HOME_GPU = "b200"
_NAMES = {SPEED: "throughput", TPOT: "TPOT", TTFT: "TTFT"}


def findings(
    unfitted: pd.DataFrame,
    three: pd.DataFrame,
    tested: pd.DataFrame,
    kinds: Mapping[str, pd.DataFrame],
    shipped: Calibration,
    scales: Mapping[str, Scale],
    *,
    plain: pd.DataFrame,
) -> Findings:
    """All tables, and what the pages quote."""
    both = after(unfitted, three)
    tables = (
        summary(unfitted, three, kinds),
        both,
        accept_lengths_given(unfitted, plain, tested),
        test_rows(tested),
        spread(scales),
        levels(shipped),
    )
    unseen = pd.concat([kinds[kind] for kind in ("GPU", "release")])  # no level is a model's
    return Findings(tables, quoted(unfitted, three, tested, unseen))


def summary(
    unfitted: pd.DataFrame, three: pd.DataFrame, kinds: Mapping[str, pd.DataFrame]
) -> Table:
    """Errors by what was measured: unfitted, with kinds left out, and after three rows."""
    parts = (
        ("unfitted, its source left out", unfitted),
        *((f"unfitted, its {kind} left out", found) for kind, found in kinds.items()),
        ("after three of its rows", three),
    )
    lines = [
        (name, _NAMES[metric], *_figures(found[found["metric"] == metric]))
        for name, found in parts
        for metric in _NAMES
    ]
    head = ("rows", "of", "n", "MAPE", "bias", "inside 90 %")
    return Table("servers elsewhere", head, tuple(lines))


def _figures(rows: pd.DataFrame) -> tuple[str, str, str, str]:
    if not len(rows):
        return "0", "-", "-", "-"
    return (
        str(len(rows)),
        percent(rows["error"].abs().mean()),
        signed(rows["error"].mean()),
        percent(rows["inside"].mean()),
    )


def after(unfitted: pd.DataFrame, three: pd.DataFrame) -> Table:
    """Each server before and after three of its rows, by speed."""
    lines = []
    for server, own in unfitted[unfitted["metric"] == SPEED].groupby("server", sort=False):
        later = three[(three["metric"] == SPEED) & (three["server"] == server)]
        lines.append((str(server), *_figures(own), *_figures(later)[1:]))
    head = ("server", "rows", "MAPE", "bias", "inside", "after: MAPE", "bias", "inside")
    return Table("servers before and after three of their rows", head, tuple(lines))


def accept_lengths_given(
    unfitted: pd.DataFrame, plain: pd.DataFrame, tested: pd.DataFrame
) -> Table:
    """Speculation off B200 with its accept length given, by source, which no fit has read."""
    parts = (
        ("its source left out", unfitted),
        ("after a plain row of its server", plain),
        ("rows that only test", tested),
    )
    lines = []
    for name, rows in (part for part in parts if len(part[1])):
        own = rows[(rows["metric"] == SPEED) & (rows["GPU"] != HOME_GPU)]
        own = own[own["accept length given"].astype(bool)]
        for source, mine in own.groupby("source", sort=False):
            lines.append((name, str(source), *_figures(mine)))
        lines.append((name, "all", *_figures(own)))
    head = ("rows", "source", "n", "MAPE", "bias", "inside 90 %")
    return Table("accept lengths given", head, tuple(lines))


def test_rows(tested: pd.DataFrame) -> Table:
    """Rows that only test, by server and metric, beside two other tools."""
    peers = _peer_errors()
    lines = []
    for (server, metric), own in tested.groupby(["server", "metric"], sort=False):
        theirs = peers[(peers["server"] == server) & (peers["metric"] == metric)]
        tools = [
            percent(rows["error"].abs().mean()) for _, rows in theirs.groupby("tool", sort=True)
        ]
        lines.append((str(server), _NAMES[str(metric)], *_figures(own), *(tools or ["-", "-"])))
    head = ("server", "of", "rows", "MAPE", "bias", "inside", *_tools(peers))
    return Table("rows that only test", head, tuple(lines))


def _tools(peers: pd.DataFrame) -> list[str]:
    return sorted(peers["tool"].unique())


def _peer_errors() -> pd.DataFrame:
    return pd.DataFrame([line for o in rows_that_test() for line in _of_peers(o)])


def _of_peers(o: Observation) -> Iterator[dict[str, object]]:
    for peer in peers_of(o):
        for metric, name, value in (
            (SPEED, "output_throughput", peer.output_tok_s),
            (TPOT, "mean_tpot_ms", peer.tpot_ms),
            (TTFT, "mean_ttft_ms", peer.ttft_ms),
        ):
            error = value / o.metrics[name] - 1
            yield {
                "server": str(measured_on(o)),
                "tool": peer.tool,
                "metric": metric,
                "error": error,
            }


def spread(scales: Mapping[str, Scale]) -> Table:
    """How much wider the sds of levels should be than the sheet has them, by evidence of rows."""
    lines = [
        (FACTORS[factor].words, f"{s.value:.2f}", f"{s.low:.2f} to {s.high:.2f}")
        for factor, s in scales.items()
    ]
    head = ("factor on", "likeliest scale of its level sds", "one sd")
    return Table("how far levels lie apart", head, tuple(lines))


def levels(shipped: Calibration) -> Table:
    """What rows elsewhere say of releases, GPUs and backends: factors over home."""
    lines = []
    for p, x, sd in zip(
        shipped.parameters, shipped.mean.tolist(), shipped.sd.tolist(), strict=True
    ):
        if p.kind in FACTORS:
            ends = f"{p.value(x - sd):.2f} to {p.value(x + sd):.2f}"
            lines.append((p.key, FACTORS[p.kind].words, f"{p.value(x):.2f}", ends))
    head = ("level", "factor on", "value", "one sd")
    return Table("levels of servers", head, tuple(sorted(lines)))


def quoted(
    unfitted: pd.DataFrame, three: pd.DataFrame, tested: pd.DataFrame, kinds: pd.DataFrame
) -> dict[str, str]:
    """Return the figures that sentences of the pages quote, by name."""
    found: dict[str, str] = {}
    for name, frame in (("unfitted", unfitted), ("kinds", kinds), ("three rows", three)):
        own = frame[frame["metric"] == SPEED]
        n, mape, bias, inside = _figures(own)
        found |= {
            f"{name} servers": str(own["server"].nunique()),
            f"{name} rows": n,
            f"{name} MAPE": mape,
            f"{name} bias": bias,
            f"{name} coverage": inside,
        }
    for gpu in ("b300", "b200"):
        for metric, word in _NAMES.items():
            own = tested[
                (tested["GPU"] == gpu)
                & (tested["metric"] == metric)
                & (tested["model"] == "qwen3.5-397b-a17b")
            ]
            _, mape, bias, inside = _figures(own)
            found |= {
                f"test {gpu} {word}": mape,
                f"test {gpu} {word} bias": bias,
                f"test {gpu} {word} inside": inside,
            }
    return found
