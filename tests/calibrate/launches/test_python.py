"""Launches in Python whose values or further arguments the text does not say."""

import pytest

from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.profiles.errors import UsageError

CALL = 'sgl.Engine(model_path="Qwen/Qwen3-4B", {})'
LIST = 'cmd = ["python3", "-m", "sglang.launch_server", "--model", "Qwen/Qwen3-4B"{}]\n'
MORE = "more arguments are added, which the text does not say"


@pytest.mark.parametrize(
    "argument",
    [
        "tp_size=torch.cuda.device_count()",
        "tp_size=2 * 4",
        "tp_size=len(gpus)",
        "speculative_algorithm=alg if spec else None",
        'speculative_algorithm=f"{alg}"',
    ],
)
def test_a_value_that_is_no_literal_is_asked_for(argument: str) -> None:
    with pytest.raises(UsageError, match=r"\$.*: the text does not set the variable"):
        scenario_from_launch(CALL.format(argument))


def test_comments_between_arguments_end_nothing() -> None:
    text = CALL.format("# one, don't\n  # two (of two\n  tp_size=2,  # three\n\n  # four\n")
    assert scenario_from_launch(text).fields["tp"] == 2


def test_arguments_that_are_unpacked_are_remarked_on() -> None:
    for text in ("**more, tp_size=2", "tp_size=2, **more", "tp_size=2, **more,"):
        launch = scenario_from_launch(CALL.format(text))
        assert launch.fields["tp"] == 2
        assert launch.remarks == (f"**more ({MORE})",)
    assert scenario_from_launch(CALL.format("*few")).remarks == (f"*few ({MORE})",)
    switch = scenario_from_launch(CALL.format("disable_radix_cache=not args.radix"))
    assert "radix_cache" not in switch.fields
    assert switch.not_modelled[0][0] == "disable_radix_cache=not args.radix"


@pytest.mark.parametrize(
    "text",
    [
        LIST.format("") + 'cmd += ["--tp", "2"]',
        LIST.format("") + 'cmd.extend(["--tp", "2"])',
        LIST.format("") + 'cmd.append("--tp")\ncmd.append("2")',
        LIST.format("") + 'cmd = cmd + ["--tp", "2"]',
        LIST.format("") + 'run(cmd + ["--tp", "2"])',
        LIST.format("").rstrip() + ' + ["--tp", "2"]',
        LIST.format("") + 'cmd += ["--tp", "2"]\ncmd = ["ls"]\ncmd += ["--tp", "8"]',
        LIST.format(', # "--tp", "8"\n "--tp", "2"'),
    ],
)
def test_lists_that_are_added_are_joined(text: str) -> None:
    launch = scenario_from_launch(text)
    assert launch.fields["tp"] == 2
    assert launch.remarks == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LIST.format(", *extra"), "*extra"),
        (LIST.format(', *(["--tp", "2"] if two else [])'), '*(["--tp", "2"] if two else [])'),
        (LIST.format("") + "cmd += extra", "extra"),
        (LIST.format("") + "cmd.extend(shlex.split(more))", "shlex.split(more)"),
        (LIST.format("") + 'if two:\n    cmd += ["--tp", "2"]', 'cmd += ["--tp", "2"]'),
        (LIST.format("").rstrip() + " + extra", "extra"),
    ],
)
def test_what_is_added_and_not_said_is_remarked_on(text: str, named: str) -> None:
    launch = scenario_from_launch(text)
    assert "tp" not in launch.fields
    assert launch.remarks == (f"{named} ({MORE})",)


@pytest.mark.parametrize("word", ['"$@"', "$EXTRA_ARGS", "${MORE[@]}", '"$*"', "$1"])
def test_words_of_a_script_that_are_not_known_are_remarked_on(word: str) -> None:
    launch = scenario_from_launch(f"sglang serve Qwen/Qwen3-4B --tp 2 {word}")
    assert launch.fields["tp"] == 2
    named = word.strip('"')
    assert launch.remarks == (f"{named} (the text does not say what it holds)",)
