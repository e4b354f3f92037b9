"""How far off is it on everything that was measured on SGLang, whatever the precision?

All plain measurements of SGLang in a public sample: Qwen3.5-397B in bf16, FP8 and NVFP4,
DeepSeek-R1, GLM-5, Qwen3-235B, Qwen3-32B and Llama-3.1-8B on B200, B300, H200 and H100, with the
launch flags of their benchmark. None of them had a say in a constant. Beside them what two other
tools say of the same rows; rows that speculate without saying so test the speculative model.
Takes some three minutes of two cores. Prints tables; ``--write`` updates the .out and the .json
beside this file, and the accuracy pages.

    python studies/gallery/15_sample.py [--jobs 2] [--write]
"""

import argparse
from pathlib import Path

from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.studies.published.page_slots import deliver
from dflash_sim.studies.published.sample import answers, findings
from dflash_sim.studies.published.servers import of_home


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    engine = load_engine(HOME)
    shipped = load_calibration("shipped", engine)
    assert shipped is not None
    found = answers(of_home(shipped), engine, jobs=args.jobs)
    deliver(findings(found), Path(__file__), write=args.write)


if __name__ == "__main__":
    main()
