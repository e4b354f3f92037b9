"""Where does speculation stop paying: as measured, and as predicted?

Every public series of one server and data set with and without speculation that this program can
ask for, on H200, GH200, B200, A100, GB300 and others. None of them had a say in a constant. The
published crossing lies on logarithmic scales between the last value that paid and the first that
did not. Takes some ten minutes. Prints tables; ``--write`` updates the .out and the .json beside
this file, and the accuracy pages.

    python studies/gallery/16_crossings.py [--write]
"""

import argparse
import sys
from pathlib import Path

from dflash_sim.studies.published.crossings import Judged, crossings, findings, judged
from dflash_sim.studies.published.page_slots import deliver


def told(found: Judged) -> None:
    """Say on stderr which row is done."""
    sys.stderr.write(f"{found.crossing.name}: {found.refusal or 'asked'}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found = judged(crossings(), on_row=told)
    deliver(findings(found), Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
