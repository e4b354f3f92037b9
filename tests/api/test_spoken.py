"""A message names keywords where the command line has flags; what is no flag of ours stays."""

import pytest

from dflash_sim.api.spoken import in_python, speaking
from dflash_sim.jobs.crew import NoWorkerError
from dflash_sim.profiles.errors import DflashSimError

NAMES = "conc method baseline allow_partial chunked_prefill_size page_size acceptance folder jobs"
NAMES += " resume from_launch leave_out test_on"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("--conc 0: too few.", "conc=0: too few."),
        ("try --chunked-prefill-size 64.", "try chunked_prefill_size=64."),
        ("--method none, or --acceptance al:4.5.", "method='none', or acceptance='al:4.5'."),
        ("--test-on selects no row", "test_on selects no row"),
        ('use "--leave-out model".', "use \"leave_out='model'\"."),
        ("unknown --method 'x'", "unknown method 'x'"),
        ("give --allow-partial to go on", "give allow_partial=True to go on"),
        ("leave --no-baseline out", "leave baseline=False out"),
        ("Choose another folder with -o.", "Choose another folder with folder."),
        ("with --resume, and fewer --jobs if", "with resume=True, and fewer jobs if"),
        ("not modelled: --speculative-eagle-topk 4", "not modelled: --speculative-eagle-topk 4"),
        ("--from-launch: --page-size x is no", "from_launch: --page-size x is no"),
        ('make one with "dflash-sim calibrate measure -o x --conc 4".',
         'make one with "dflash-sim calibrate measure -o x --conc 4".'),
        ("it is a well-known --conc-like thing", "it is a well-known --conc-like thing"),
    ],
)  # fmt: skip
def test_words(said: str, meant: str) -> None:
    assert in_python(said, NAMES.split()) == meant


def test_an_error_stays_what_it_is() -> None:
    error = NoWorkerError("killed", "Fewer --jobs leave each more memory.")
    with pytest.raises(DflashSimError) as told, speaking(NAMES.split()):
        raise error
    assert told.value is error
    assert str(error) == "no worker is left; the last: killed. Fewer jobs leave each more memory."
    with pytest.raises(ValueError, match=r"invalid literal.*--jobs 3"), speaking(NAMES.split()):
        int("--jobs 3")
