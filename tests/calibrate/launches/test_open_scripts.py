"""Scripts that leave open what is run: one reading is taken, and an answer says which."""

import pytest

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.profiles.errors import UsageError

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


@pytest.mark.parametrize(
    ("script", "tp"),
    [
        ("TP=4\n(TP=2)", 4),
        ("TP=4\n(cd /x && export TP=2; (TP=1))", 4),
        ("TP=4\ncase x in\n (y) TP=1;;\n x) TP=2;;\nesac\n(TP=1)", 2),
        ("f() { echo; }\nTP=2\n((TP=4))", 4),
        ("TP=4; unset TP; TP=${TP:-2}", 2),
        ("TP=4; export A=1; unset -v A B; exit_code=1", 4),
        (
            "usage() { echo no; exit 1; }\nfunction no { exit 1; }\nfunction f() { exit 2; }\nTP=4",
            4,
        ),
        ("TP=4\ncurl localhost:1 && exit 0\nfor i in 1 2; do curl a && echo up && exit; done", 4),
        ("TP=4\n(exit 1)\nif [ 1 = 2 ]; then exit 0; fi", 4),
        ("TP=4\nif [ $# -lt 1 ]; then echo usage; exit 1; fi\n[ -z $1 ] && exit 1", 4),
        ("TP=4\n[ -f /x ] || exit 1\ncd /x || exit 1\nif [ ! -d /y ]; then exit 2; fi", 4),
    ],
)
def test_shells_within_and_the_end_of_one(script: str, tp: int) -> None:
    launch = scenario_from_launch(script + SERVE)
    assert launch.fields["tp"] == tp
    assert launch.remarks == ()


def test_behind_an_exit_nothing_is_run() -> None:
    first = "sglang serve Qwen/Qwen3-8B --tp 2\n{}\nsglang serve Qwen/Qwen3-8B --tp 4"
    assert scenario_from_launch(first.format("exit 0")).fields["tp"] == 2
    with pytest.raises(UsageError, match="2 launches that differ"):
        scenario_from_launch(first.format("[ 1 = 1 ] || exit 0"))
    with pytest.raises(UsageError, match="is not an SGLang launch command"):
        scenario_from_launch("exit 0\nsglang serve Qwen/Qwen3-8B --tp 4")


def test_a_variable_that_is_unset_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"--tp \$TP: the text does not set"):
        scenario_from_launch("TP=4; unset TP" + SERVE)
    launch = scenario_from_launch("TP=4; [ -f /x ] || unset TP" + SERVE)
    assert launch.fields["tp"] == 4
    assert len(launch.remarks) == 1


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("start() { sglang serve Qwen/Qwen3-8B --port ${2:-1} --tp ${1:-2}; }\nstart 4", "$1, $2"),
        ("TP=${1:-2}" + SERVE, "TP"),
        ("TP=2; if [ $# -gt 0 ]; then TP=$1; fi" + SERVE, "TP"),
        ("TP=2; if [ $1 = big ]; then TP=8; fi" + SERVE, "TP"),
    ],
)
def test_what_a_script_is_called_with_is_named_where_it_matters(script: str, name: str) -> None:
    launch = scenario_from_launch(script)
    assert launch.fields["tp"] == 2
    names = [remark.partition(" (")[0] for remark in launch.remarks]
    assert names == name.split(", ")
    port = "sglang serve Qwen/Qwen3-8B --tp 2 --port ${1:-30000}"
    assert scenario_from_launch(port).remarks == ()
