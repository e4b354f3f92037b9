"""Scripts that leave open what is run: one reading is taken, and an answer says which."""

import pytest

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch

SERVE = "\nsglang serve Qwen/Qwen3-8B --tp $TP"


@pytest.mark.parametrize(
    ("script", "tp", "why"),
    [
        ("[ -f /x ] && TP=4 || TP=8", 4, "does not say whether [ -f /x ] holds"),
        ("TP=8; [ -f /x ] && TP=4", 4, "does not say whether [ -f /x ] holds"),
        ("TP=8; [ -f /x ] || TP=4", 8, "does not say whether [ -f /x ] holds"),
        ("TP=8; [ -f /x ] && cd /x && TP=4", 4, "does not say whether [ -f /x ] && cd /x holds"),
        ("TP=8; cd /x || TP=9", 8, "does not say whether cd /x holds"),
        ("TP=8; cd /x || { echo no; TP=9; }", 8, "does not say whether cd /x holds"),
        ("[ -f /x ] && export TP=4 || export TP=8", 4, "does not say whether [ -f /x ] &&"),
        ("TP=8; if [ -f /x ]; then :; elif [ 1 = 1 ]; then TP=4; fi", 8, "whether [ -f /x ] holds"),
        ("TP=8; if [ 1 = 2 ]; then TP=1; elif [ -f /x ]; then TP=2; elif [ 1 = 1 ]; then :; fi",
         2, "whether [ -f /x ] holds"),
    ],
)  # fmt: skip
def test_what_is_open_is_read_one_way_and_named(script: str, tp: int, why: str) -> None:
    launch = scenario_from_launch(script + SERVE)
    assert launch.fields["tp"] == tp
    (remark,) = launch.remarks
    assert remark.startswith("TP (")
    assert why in remark


@pytest.mark.parametrize(
    "script",
    [
        "TP=4; cd /x && source venv/bin/activate",
        "cd /x && TP=4",
        "[ -f /x ] && TP=4 || TP=4",
        "TP=4; cd /x || echo no",
        "if [ 1 = 1 ]; then TP=4; elif [ -f /x ]; then TP=8; fi",
        "true && TP=4 || TP=8",
    ],
)
def test_what_changes_nothing_is_no_remark(script: str) -> None:
    launch = scenario_from_launch(script + SERVE)
    assert launch.fields["tp"] == 4
    assert launch.remarks == ()
