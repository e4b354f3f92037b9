"""Published throughputs that test the simulator, also under changed assumptions.

Nothing is fitted here, and a row on which any parameter was fitted is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from dflash_sim.calibrate.fit.held_out import Outcome, predicted
from dflash_sim.calibrate.fit.rows import Row
from dflash_sim.calibrate.fit.rows import rows_of as usable
from dflash_sim.calibrate.observations.observation import Observation
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.load import load_dataset
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.sheets import Dataset, LengthModel, Quantity
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.compare.validate_question import published

CARD_SOURCES = ("HF_Q36_35B_retrain", "HF_Q35_397B", "HF_Q35_397B_seed", "SGL_PR23000")
OLD_SOURCES = ("HF_Q35_27B_orig", "HF_Q35_35B_orig", "HF_Q36_35B_orig")
BASELINE_SOURCES = ("PAPER_T5", "SGL_PR19952", "LAMBDA_Q35_397B")


@dataclass(frozen=True)
class Variant:
    """The changed assumption of one line of the sensitivity table.

    Parameters
    ----------
    constants
        Engine constants by name, in SI units.
    osl_scale
        Factor on the mean and spread of answer lengths, before the cap [1].
    engine_mode
        The mode that speculative rows are taken to be measured in.
    """

    name: str
    constants: tuple[tuple[str, float], ...] = ()
    osl_scale: float = 1.0
    engine_mode: str | None = None

    def of(self, row: Row) -> Row:
        """Return the row under this assumption."""
        s = row.scenario
        if self.engine_mode and s.speculation.speculative:
            row = asked(row, engine_mode=self.engine_mode)
        if self.osl_scale != 1 and s.dataset is not None:
            row = replace(row, dataset=stretched(load_dataset(s.dataset), self.osl_scale))
        return row


AS_SHIPPED = Variant("as shipped")
VARIANTS = (
    Variant("answers x 0.7", osl_scale=0.7),
    Variant("answers x 1.4", osl_scale=1.4),
    Variant("expert_skew 0", (("expert_skew", 0.0),)),
    Variant("expert_skew 1", (("expert_skew", 1.0),)),
    Variant("verify_attention_factor 1.0", (("verify_attention_factor", 1.0),)),
    Variant("verify_attention_factor 1.6", (("verify_attention_factor", 1.6),)),
)


def stretched(dataset: Dataset, scale: float) -> Dataset:
    """Return the data set with every answer length times ``scale`` [1]."""

    def times(q: Quantity) -> Quantity:
        return replace(q, value=q.value * scale)

    osl = {mode: LengthModel(times(x.mean), times(x.sd)) for mode, x in dataset.osl.items()}
    return replace(dataset, osl=osl)


def asked(row: Row, **fields: object) -> Row:
    """Return the row with some fields of its scenario changed."""
    known = row.scenario.model_dump(exclude_unset=True)
    return replace(row, scenario=Scenario.parse(**(known | fields)))


@cache
def rows_of(*sources: str) -> tuple[Row, ...]:
    """Return the published rows of these sources, in file order.

    Raises
    ------
    UsageError
        A parameter was fitted on a row: it cannot test the fit.
    """
    chosen = [o for o in published().observations if o.source in sources]
    for observation in chosen:
        refuse_fitted(observation)
    return tuple(usable(chosen, load_engine(HOME))[0])


def refuse_fitted(observation: Observation) -> None:
    """Refuse a row that a parameter was fitted on: it cannot stand in an accuracy table."""
    if fitted := observation.about.get("fitted_what"):
        msg = (
            f"{observation.row} ({observation.source}): fitted on this row: {', '.join(fitted)}. "
            "It cannot enter an accuracy table."
        )
        raise UsageError(msg)


def card_rows() -> tuple[Row, ...]:
    """Return every open row of the current cards and of the V1/V2 comparison."""
    return rows_of(*CARD_SOURCES)


def old_rows() -> tuple[Row, ...]:
    """Return the rows of the first-release cards, with the accept lengths they print.

    They are of an older engine and, for DFlash, of another drafter. MT-Bench is left out: that
    harness sends first turns only.
    """
    rows = [row for row in rows_of(*OLD_SOURCES) if row.scenario.dataset != "mt-bench"]
    lengths = [row.observation.metrics.get("accept_length") for row in rows]
    return tuple(
        asked(row, acceptance=f"al:{length}") if length else row
        for row, length in zip(rows, lengths, strict=True)
    )


def baseline_rows() -> tuple[Row, ...]:
    """Return plain decoding of other models and sources."""
    rows = rows_of(*BASELINE_SOURCES)
    return tuple(row for row in rows if not row.scenario.speculation.speculative)


def evaluate(
    rows: Sequence[Row],
    *,
    runs: int,
    jobs: int = 1,
    variant: Variant = AS_SHIPPED,
    on_row: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """Predict rows from the constants of the engine sheet, none of which was fitted on them."""
    for row in rows:
        refuse_fitted(row.observation)
    return predicted(
        [variant.of(row) for row in rows],
        None,
        engine=load_engine(HOME).with_constants(**dict(variant.constants)),
        held=variant.name,
        jobs=jobs,
        runs=runs,
        interval=False,
        on_row=on_row,
    )
