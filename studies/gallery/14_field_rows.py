"""Of what people publish, how much can be asked?

The conditions of 604 published measurements of any engine: which of them are understood, fit and
can be priced, by engine, precision, GPU, method and model, and why the others are refused.
Nothing is simulated. Prints tables; ``--write`` updates the .out and the .json beside this file,
and the accuracy pages.

    python studies/gallery/14_field_rows.py [--write]
"""

import argparse
from pathlib import Path

from dflash_sim.studies.published.field_rows import field_rows, findings
from dflash_sim.studies.published.page_slots import deliver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    deliver(findings(field_rows()), Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
