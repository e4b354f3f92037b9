"""What is typed: small languages, and whole command lines."""

import contextlib
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from trust.mutations import soup
from trust.target import LONGEST, Target, WrongError, check

from dflash_sim import cli
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.row_filter import parse_filter
from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.simulator.policy.parse import parse_policy
from dflash_sim.simulator.requests.parse import parse_acceptance
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.ranges import real_numbers, whole_numbers
from dflash_sim.studies.sweep.job import shard_of

CODES = {0, 1, 2, 3, 4}


def text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda data, _: read(data.decode("utf-8", "replace"))


def of_words(*parts: str) -> Callable[[random.Random], bytes]:
    return lambda draw: soup(parts, draw).encode("utf-8", "surrogatepass")


def acceptance(words: str) -> object:
    found = parse_acceptance(words, block=16, priors=load_acceptance_priors())
    if (mean := getattr(found, "mean", None)) is not None:
        check("accept length", float(mean() if callable(mean) else mean), 0.0, 1024.0)
    return found


NUMBERS = (
    *("0", "1", "2", "8", "16", "0.5", "-1", "1e3", "1e999", "nan", "007", " "),
    *("1e-300", "1e300", "0.999999999999", "1e-9"),
)
SIGNS = (",", ":", "-", ":x", "=", ";", "[", "]", "(", ")", "{", "}", ".", "'", '"')
LAWS = ("weibull:", "geometric:", "al:", "table:", "histogram:", "file:", "mix:", "prior", "none",
    "sglang-simulated:", "vllm-synthetic:", "fixed:", "q=", "beta=", "theta=", "multinomial",
    "match-expected", "humaneval=", "mt-bench=")  # fmt: skip
POLICIES = (
    *("table:", "[[1,8,15],", "[9,64,7]]", "accept:", "batch:", "confidence:", "context:", "ema:"),
    *("fixed", "oracle", "sglang-adaptive", "vllm-example", '{"', '"slots"', "null", "[" * 5000),
)
FILTERS = (
    *("concurrency", "method", "gpu", "dataset", "==", "!=", "<", "<=", " in ", " not in "),
    *(" and ", " or ", "not ", "None", "True", "'mtp'", "lambda", "__import__", "**", "+", "\n"),
    *("f'{x}'", "[x for x in y]", "#"),
)
LAUNCH = (
    *("python -m sglang.launch_server ", "sglang serve ", "vllm serve ", "--model-path ", "--tp "),
    *("--speculative-algorithm DFLASH ", "--speculative-num-draft-tokens ", "Qwen/Qwen3-8B "),
    *("--mem-fraction-static ", "--page-size ", "--quantization fp8 ", "export A=", "$A "),
    *("${B:-8} ", "\\\n", "&& ", "| ", "; ", "'", '"', "$(", ")", "# ", "args: [", "- --tp\n"),
    *("- '8'\n", "{", "}", '--json-model-override-args \'{"a":', "SGLANG_X=1 ", "CMD [", "--dp "),
    *('--speculative-config \'{"method":', "--attention-backend fa3 ", "--host 0 ", "8 ", "-1 "),
    *(
        "--max-running-requests ",
        "nan ",
        "services:\n",
        "  image: x\n",
        "command: ",
        "---\n",
        "&a ",
    ),
)

# ---- commands ------------------------------------------------------------------------------------

NAMED = {
    "--model": ("qwen3-8b", "qwen3.5-397b-a17b", "tiny", "x"),
    "--gpu": ("b200", "h200", "h20", "8xh100"),
    "--method": ("dflash", "mtp", "none", "x"),
    "--dataset": ("gsm8k", "x"),
    "--acceptance": LAWS,
    "--policy": POLICIES,
    "--engine": ("sglang-0.5.14", "0.5", "x"),
    "--quantization": ("fp8", "x"),
    "--kv-cache-dtype": ("fp8_e4m3", "auto", "x"),
    "--from-launch": LAUNCH,
    "--preset": ("x", "launch"),
    "--format": ("csv", "x"),
    "--calibration": ("none", "shipped", "x"),
    "--draft-model": ("x", "/"),
    "--profiles": (".", "x"),
    "--tag": ("=1+1", "\x1b[31m"),
    "--interval": ("90", "x"),
    "--engine-mode": ("v1", "v2", "x"),
    "--build": ("2026-06", "x"),
    "--time-unit": ("s", "x"),
    "--set": ("conc=1", "x=y", "conc"),
    "--shard": ("1/2", "2/1", "x"),
    "--tune": ("block", "x"),
    "--trace": ("x", "."),
    "--where": FILTERS,
    "--assume": ("gpu=h200", "x"),
    "-o": (".", "x/y", "/dev/full"),
    "--phase": ("verify", "x"),
    "--over": ("conc", "x"),
}
COUNTED = (
    *("--tp", "--block", "--conc", "--steps", "--isl", "--osl", "--rate", "--page-size", "--seed"),
    *("--runs", "--max-running-requests", "--temperature", "--num-prompts", "--max-new-tokens"),
    *("--chunked-prefill-size", "--jobs", "--busiest", "--duration", "--ttft", "--tpot"),
    *("--max-gpus", "--accept-length", "--mem-fraction-static"),
)
FIELDS = tuple("--" + name.replace("_", "-") for name in Scenario.model_fields)
FLAGS = dict.fromkeys((*FIELDS, *COUNTED), NUMBERS) | NAMED
# Each stops before it simulates: pages of settings, of memory, of names; or a file is missing.
BEGINNINGS = (
    "predict --print-config", "predict --memory", "plan --print-config", "list gpus", "list models",
    "sweep --merge", "compare nothing.json", "validate --observations nothing.json", "",
    "calibrate fit nothing.json -o x.toml", "trace --print-config", "crossover --print-config",
    "explain --print-config", "predict --preset nothing.yaml", "sweep nothing.yaml -o out",
)  # fmt: skip


def command_line(draw: random.Random) -> bytes:
    words = draw.choice(BEGINNINGS).split()
    for _ in range(draw.choice((0, 1, 1, 2, 3, 5))):
        flag = draw.choice(list(FLAGS))
        words += [flag, soup((*FLAGS[flag], *draw.sample(SIGNS, 2)), draw)]
    if draw.random() < 0.1:
        words.insert(draw.randrange(len(words) + 1), soup((*NUMBERS, *SIGNS), draw))
    return "\x1f".join(words).encode("utf-8", "surrogatepass")


def command(data: bytes, folder: Path) -> object:
    words = data.decode("utf-8", "replace").split("\x1f")
    said, answer = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(answer),
    ):
        code = cli.run([word.replace("\0", "") for word in words])
    told = said.getvalue()
    if code not in CODES or "Traceback" in told:
        msg = f"exit code {code}: {told[-400:]}"
        raise WrongError(msg)
    if max(map(len, told.splitlines()), default=0) > LONGEST:
        msg = f"a line of {max(map(len, told.splitlines()))} letters"
        raise WrongError(msg)
    for shown in (told, answer.getvalue()):
        if any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown):
            msg = f"a control character is sent: {shown[-300:]!r}"
            raise WrongError(msg)
    if code:
        msg = "refused"
        raise UsageError(msg)
    return answer


def typed() -> Iterator[Target]:
    """All that is typed."""
    policy = text(lambda words: parse_policy(words, block=16))
    yield Target("policies", policy, of_words(*POLICIES, *NUMBERS, *SIGNS), 40)
    yield Target("acceptance", text(acceptance), of_words(*LAWS, *NUMBERS, *SIGNS), 40)
    yield Target("filters", text(parse_filter), of_words(*FILTERS, *NUMBERS, *SIGNS), 40)
    yield Target("launch commands", text(scenario_from_launch), of_words(*LAUNCH), 30)
    ranges = text(lambda words: (whole_numbers("-n", words), real_numbers("-x", words)))
    yield Target("ranges", ranges, of_words(*NUMBERS, *SIGNS), 30)
    yield Target("shards", text(shard_of), of_words(*NUMBERS, "/"), 8)
    yield Target("command lines", command, command_line, 3)
