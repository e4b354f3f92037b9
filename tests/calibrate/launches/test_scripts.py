"""Scripts around a launch: branches, arithmetic and arrays, as a real shell reads them."""

import random
import re
import shutil
import subprocess

import pytest

from dflash_sim.calibrate.launches import shell_text
from dflash_sim.calibrate.launches.shell_tests import verdict
from dflash_sim.calibrate.launches.shell_values import Shell, arithmetic
from dflash_sim.calibrate.launches.words import launches
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.profiles.errors import UsageError

BRANCHES = """
if [[ $CONC -ge 16 ]]; then
  INTERVAL=30
elif [ "$CONC" = 8 ]; then
  INTERVAL=20
else
  INTERVAL=10
fi
ARGS=(--tp "$TP" --max-running-requests $((2 * CONC)))
if [ "${LOW:-no}" = "yes" ]; then ARGS+=(--page-size 64); fi
[ "$TP" -gt 4 ] && ARGS+=(--ep-size $TP)
case "$MODEL" in
  *120b) BACKEND=triton ;;
  *) BACKEND=fa3 ;;
esac
python3 -m sglang.launch_server --model-path $MODEL "${ARGS[@]}" \\
  --scheduler-recv-interval $INTERVAL --attention-backend $BACKEND $EXTRA &
"""


@pytest.mark.parametrize(
    ("sets", "fields"),
    [
        ("CONC=32\nTP=8\nMODEL=openai/gpt-oss-120b\nLOW=yes",
         {"scheduler_recv_interval": 30, "tp": 8, "ep_size": 8, "page_size": 64,
          "max_running_requests": 64, "attention_backend": "triton",
          "model": "openai/gpt-oss-120b"}),
        ("CONC=8\nexport TP=4 MODEL=Qwen/Qwen3-8B",
         {"scheduler_recv_interval": 20, "tp": 4, "max_running_requests": 16,
          "attention_backend": "fa3", "model": "Qwen/Qwen3-8B"}),
        ("CONC=${1:-1}\nTP=1; MODEL=Qwen/Qwen3-8B",
         {"scheduler_recv_interval": 10, "tp": 1, "max_running_requests": 2,
          "attention_backend": "fa3", "model": "Qwen/Qwen3-8B"}),
    ],
)  # fmt: skip
def test_the_branch_that_is_run_is_the_one_that_is_read(
    sets: str, fields: dict[str, object]
) -> None:
    assert scenario_from_launch(sets + BRANCHES).fields == fields | {"method": "none"}


def test_a_branch_that_the_text_leaves_open_is_named_where_it_matters() -> None:
    script = (
        'if [ "$BIG" = 1 ]; then CHUNK=8192; else CHUNK=2048; fi\n{}\n'
        "sglang serve Qwen/Qwen3-8B --chunked-prefill-size $CHUNK"
    )
    launch = scenario_from_launch(script.format(""))
    assert launch.fields["chunked_prefill_size"] == 2048
    (remark,) = launch.remarks
    assert remark.startswith("CHUNK ([ $BIG = 1 ] rests on BIG, which the text leaves out")
    assert scenario_from_launch("BIG=1\n" + script.format("")).remarks == ()
    assert scenario_from_launch(script.format("CHUNK=4096")).remarks == ()
    logs = (
        'if [ -n "$V" ]; then L=debug; else L=info; fi\nsglang serve Qwen/Qwen3-8B --log-level $L'
    )
    assert scenario_from_launch(logs).remarks == ()  # it changes nothing that is simulated
    files = "if [ -d /data/m ]; then T=2; else T=4; fi\nsglang serve Qwen/Qwen3-8B --tp $T"
    assert "does not say whether [ -d /data/m ] holds" in scenario_from_launch(files).remarks[0]


def _script(draw: random.Random) -> str:
    """A small script of the forms that launches come in, all of whose variables are set."""
    some = ["", "true", "x", "0", "3", "12", "7"]
    lines = [f"{name}={draw.choice(some)}" for name in "AB"]
    lines += [f"N={draw.randrange(20)}", f"M={draw.randrange(20)}"]
    tests = [
        '[ "$A" = "true" ]', '[[ $A == t* ]]', '[[ -n "$B" ]]', '[ -z "$B" ]', "[ $N -gt $M ]",
        "[[ $N -le 9 && $M -ne 3 ]]", '[[ "$A" != x || $N -eq 4 ]]', '! [ "$A" = "$B" ]',
        '[ "$A" = x ] || [ $M -lt 6 ]', '[[ ! -z "$A" ]] && [ $N -ge 10 ]',
    ]  # fmt: skip
    for name in "PQ":
        first, second = draw.sample(tests, 2)
        lines += [f"if {first}; then\n  {name}=1", f"elif {second}\nthen {name}=2; R={name}"]
        lines += [f"else {name}=3\nfi"]
    lines += [
        f"{draw.choice(tests)} && S=on || S=off",
        'case "$A" in\n true|x) U=1 ;;\n [0-9]*) U=2;;\n *) U=3\nesac',
        f"L=(--a \"$A\" --n $((N * 2 + M)))\nif {draw.choice(tests)}; then L+=(--more 'b c'); fi",
        "T=$((N > M ? N - M : (N + 1) / 3)); W=${B:-none}; X=${B:+--set $N}; E=()",
        f"if {draw.choice(tests)}; then if {draw.choice(tests)}; then Y=1; else Y=2; fi; fi",
    ]
    return "\n".join(lines) + (
        '\nsglang serve "${L[@]}" $P $Q $R $S $U $T $W $X "${E[@]}" $Y "$A" end\n'
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to compare with")
def test_scripts_give_the_words_that_bash_gives() -> None:
    draw = random.Random(5)
    shows = "sglang() { shift; printf '%s\\037' \"$@\"; }\n"
    seen = set()
    for _ in range(60):
        script = _script(draw)
        said = subprocess.run(
            ["bash", "-c", shows + script], capture_output=True, text=True, check=True
        )
        # A variable that is never set is left standing by us: these scripts read R and Y alone so.
        words = [w for w in launches(script)[0].arguments if w not in ("$R", "$Y")]
        assert words == said.stdout.split("\x1f")[:-1], script
        seen.add(tuple(words[-7:-2]))
    assert len(seen) > 20


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2 * (3 + 4)", 14), ("-7 / 2", -3), ("-7 % 3", -1), ("5 > 3 ? 8 : 9", 8), ("1 / 0", None),
        ("x + 1", None), ("2 ** 99", None), ("10000000 * 10000000", None), ("(" * 99, None),
        ("True + 1", None),
    ],
)  # fmt: skip
def test_sums_of_whole_numbers(text: str, amount: int | None) -> None:
    assert arithmetic(text) == amount


def test_a_test_of_nothing_known_is_open() -> None:
    assert verdict(["[", "-f", "/etc/passwd", "]"]).holds is None
    assert verdict(["[", "$A", "=", "1", "]"]).unset == {"A"}
    assert verdict(["[", "$(nproc)", "-gt", "2", "]"]).holds is None
    assert verdict(["true"]).guess is None
    assert (~verdict(["false"])).holds


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${A}b$A", "1b1"), ("${B:-${A}2}", "12"), ("${A:+-x $A}", "-x 1"), ("${B:+-x}", ""),
        ("$B", "$B"), ("${E:-d}${E-d}", "d"), ("$((A + 2))", "3"), ("$((B + 2))", "$((B+2))"),
        ("${B?no}", "${B?no}"), ("$(date)", "$(date)"), ("${", "${"), ("$", "$"), ("${1:-q}", "q"),
        ("$( [[ $A -gt 4 ]] && echo 30 || echo 10 )", "10"), ("$env:A${ENV:A}$env:B", "11$env:B"),
    ],
)  # fmt: skip
def test_variables_are_filled_in(text: str, filled: str) -> None:
    assert Shell({"A": "1", "E": ""}).filled(text) == filled
    assert Shell({"A": "1", "env": "x"}).filled("$env:A") == "x:A"


def test_a_variable_that_is_left_out_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"\$MODEL: .* put MODEL=VALUE before"):
        scenario_from_launch("python3 -m sglang.launch_server --model-path $MODEL")


def test_what_a_program_would_say_is_one_word() -> None:
    script = (
        "L=$((ISL + OSL))\nP=$(python get port)\nsglang serve a/b --context-length $L --port $P"
    )
    assert scenario_from_launch(script).fields["model"] == "a/b"
    with pytest.raises(UsageError, match=r"--tp \$\(nproc_--all\): the text does not set"):
        scenario_from_launch("N=$(nproc --all)\nsglang serve a/b --tp $N")


def test_a_program_of_another_language_is_no_part_of_the_script() -> None:
    script = "python3 - <<'PY'\nprint(f\"don't {1}\")\nPY\nsglang serve Qwen/Qwen3-8B --tp 2\n"
    assert scenario_from_launch(script).fields["tp"] == 2


class _Counting:
    """A pattern that counts how often it is asked."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern, self.asked = pattern, 0

    def match(self, text: str, at: int) -> re.Match[str] | None:
        self.asked += 1
        return self.pattern.match(text, at)


@pytest.mark.parametrize("line", ["\n", "  # words\n", "\r\n"])
@pytest.mark.parametrize("goes_on", ["  --tp 2", "ls"])
def test_lines_without_commands_are_read_once(
    monkeypatch: pytest.MonkeyPatch, line: str, goes_on: str
) -> None:
    pattern = _Counting(shell_text._GOES_ON)
    monkeypatch.setattr(shell_text, "_GOES_ON", pattern)
    script = "sglang serve Qwen/Qwen3-8B\n" + 500 * line + goes_on + "\nls"
    words = [word for command in shell_text.commands(script, Shell()) for word in command.words]
    assert words == ["sglang", "serve", "Qwen/Qwen3-8B", *goes_on.split(), "ls"]
    assert pattern.asked < 5
