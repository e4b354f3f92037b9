"""What is fuzzed: every reader of a file, every sheet, every small language, every command.

A target takes an input and either uses it or refuses it as a user's mistake. What it uses has
numbers with a meaning.
"""

import contextlib
import io
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trust.mutations import mutated, soup

from dflash_sim import cli
from dflash_sim.calibrate.observations.launch_command import scenario_from_launch
from dflash_sim.calibrate.observations.row_filter import parse_filter
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.calibrate.readers.request_traces import read_trace
from dflash_sim.profiles.acceptance.histogram_file import read_histogram
from dflash_sim.profiles.errors import DflashSimError, UsageError
from dflash_sim.profiles.find import searching
from dflash_sim.profiles.load import (
    load_acceptance,
    load_dataset,
    load_device,
    load_drafter,
    load_model,
    load_node,
    load_published,
    load_survival,
)
from dflash_sim.profiles.presets import load_preset
from dflash_sim.profiles.priors import load_acceptance_priors
from dflash_sim.profiles.releases.calibration import load_calibration, read_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.times.machine_profile import load_measured
from dflash_sim.simulator.policy.parse import parse_policy
from dflash_sim.simulator.requests.parse import parse_acceptance
from dflash_sim.studies.ask.ranges import real_numbers, whole_numbers
from dflash_sim.studies.ask.study import load_study
from dflash_sim.studies.sweep.job import shard_of

ROOT = Path(__file__).parents[2]
DATA, PROFILES = ROOT / "tests/data", ROOT / "profiles"
REFUSED = (DflashSimError,)
LONGEST = 1500  # letters of a message
CODES = {0, 1, 2, 3, 4}


class WrongError(AssertionError):
    """An answer, or a message, that should not have been."""


@dataclass(frozen=True)
class Target:
    """One thing that reads.

    Parameters
    ----------
    take
        Given an input and a scratch folder; raises what is not a user's mistake.
    make
        Draws an input.
    weight
        Of its share of a campaign.
    """

    name: str
    take: Callable[[bytes, Path], object]
    make: Callable[[random.Random], bytes]
    weight: int


def tried(target: Target, data: bytes, folder: Path) -> bool:
    """Return True if the input was used; raises what is a fault."""
    try:
        target.take(data, folder)
    except REFUSED as error:
        if len(str(error)) > LONGEST:
            msg = f"a message of {len(str(error))} letters"
            raise WrongError(msg) from error
        return False
    return True


# ---- files ---------------------------------------------------------------------------------------


def seeds(folder: Path, *patterns: str, largest: int = 60_000) -> list[bytes]:
    """Files of ours to begin with."""
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    found = [p.read_bytes() for p in paths]
    assert found, (folder, patterns)
    return [text[:largest] for text in found]


def of_seeds(texts: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    return lambda draw: mutated(draw.choice(texts), texts, draw)


def at(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader of a file of this name."""

    def take(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return take


def sheet(place: str, load: Callable[[], object]) -> Callable[[bytes, Path], object]:
    """A loader of a sheet that lies in a folder of the user's."""

    def take(data: bytes, folder: Path) -> object:
        path = folder / "profiles" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        try:
            with searching((folder / "profiles",)):
                return load()
        finally:
            shutil.rmtree(folder / "profiles")

    return take


def engine() -> object:
    found = load_engine("mine")
    for name, value in found.si.items():
        check(f"engine constant {name}", value, 0.0, 1e16)
    return found


def device() -> object:
    found = load_device("mine")
    for name, quantity in found.quantities.items():
        check(f"device {name}", quantity.si, 0.0, 1e19)
    return found


def calibration(path: Path) -> object:
    found = read_calibration(path)
    for name, value in found.values.items():
        check(name, value, -1e16, 1e16)
    for sd in found.sd.tolist():
        check("standard deviation", sd, 0.0, 1e3)
    load_calibration(str(path), load_engine(HOME))
    return found


def profile(path: Path) -> object:
    found = load_measured(path)
    for op in found.ops:
        check("seconds of an op", op.seconds, 0.0, 1e6)
    for each in found.passes:
        check("seconds of a pass", each.seconds, 0.0, 1e6)
    device = found.as_device()
    found.as_node(device)
    check("factor", found.pass_factor("verify", requests=2, rows=4, ctx=64.0), 1e-6, 1e6)
    check("memory", device.mem_bytes, 1.0, 1e16)
    check("bandwidth", device.mem_bw_byte_s, 1.0, 1e18)
    return found


def observations(path: Path) -> object:
    report = read_observations([path])
    for where, why in report.refused:
        if len(why) > LONGEST or len(where) > LONGEST:
            msg = f"a refusal of {len(why)} letters"
            raise WrongError(msg)
    for row in report.observations:
        for name, value in row.metrics.items():
            check(f"{row.row} {name}", value, 0.0, 1e15)
    if not report.observations:
        msg = "nothing to use"
        raise UsageError(msg)
    return report


def trace(path: Path) -> object:
    found = read_trace(path)
    for lengths in (found.isl, found.osl):
        check("length", float(lengths.max()), 0.0, 1e12)
        check("length", float(lengths.min()), 0.0, 1e12)
    if found.arrival_s is not None:
        check("arrival", float(found.arrival_s.min()), 0.0, 1e12)
        check("arrival", float(found.arrival_s.max()), 0.0, 1e12)
    return found


def check(what: str, value: float, least: float, most: float) -> None:
    """Refuse an answer with a number that means nothing."""
    if not (math.isfinite(value) and least <= value <= most):
        msg = f"{what} is {value}"
        raise WrongError(msg)


# ---- small languages -----------------------------------------------------------------------------


def text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda data, _: read(data.decode("utf-8", "replace"))


def of_words(*parts: str) -> Callable[[random.Random], bytes]:
    return lambda draw: soup(parts, draw).encode("utf-8", "surrogatepass")


def acceptance(words: str) -> object:
    found = parse_acceptance(words, block=16, priors=load_acceptance_priors())
    if (mean := getattr(found, "mean", None)) is not None:
        check("accept length", float(mean() if callable(mean) else mean), 0.0, 1024.0)
    return found


NUMBERS = ("0", "1", "2", "8", "16", "0.5", "-1", "1e3", "1e999", "nan", "007", " ")
SIGNS = (",", ":", "-", ":x", "=", ";", "[", "]", "(", ")", "{", "}", ".", "'", '"')
LAWS = ("weibull:", "geometric:", "al:", "table:", "histogram:", "file:", "mix:", "prior", "none",
    "sglang-simulated:", "vllm-synthetic:", "fixed:", "q=", "beta=", "theta=", "multinomial",
    "match-expected", "humaneval=", "mt-bench=")  # fmt: skip
POLICIES = ("table:", "[[1,8,15],", "[9,64,7]]", "accept:", "batch:", "confidence:", "context:",
    "ema:", "fixed", "oracle", "sglang-adaptive", "vllm-example", '{"', '"slots"', "null")  # fmt: skip
FILTERS = ("concurrency", "method", "gpu", "dataset", "==", "!=", "<", "<=", " in ", " not in ",
    " and ", " or ", "not ", "None", "True", "'mtp'", "lambda", "__import__", "**", "+", "\n",
    "f'{x}'", "[x for x in y]", "#")  # fmt: skip
LAUNCH = ("python -m sglang.launch_server ", "sglang serve ", "vllm serve ", "--model-path ", "--tp ",
    "--speculative-algorithm DFLASH ", "--speculative-num-draft-tokens ", "Qwen/Qwen3-8B ", "--dp ",
    "--mem-fraction-static ", "--page-size ", "--quantization fp8 ", "export A=", "$A ", "${B:-8} ",
    "\\\n", "&& ", "| ", "; ", "'", '"', "$(", ")", "# ", "args: [", "- --tp\n", "- '8'\n", "{", "}",
    "--json-model-override-args '{\"a\":", "--speculative-config '{\"method\":", "SGLANG_X=1 ",
    "--attention-backend fa3 ", "--max-running-requests ", "--host 0 ", "8 ", "-1 ", "nan ")  # fmt: skip

# ---- commands ------------------------------------------------------------------------------------

FLAGS = {
    "--model": ("qwen3-8b", "qwen3.5-397b-a17b", "tiny", "x"), "--gpu": ("b200", "h200", "h20", "8xh100"),
    "--tp": NUMBERS, "--block": NUMBERS, "--conc": NUMBERS, "--method": ("dflash", "mtp", "none", "x"),
    "--steps": NUMBERS, "--isl": NUMBERS, "--osl": NUMBERS, "--rate": NUMBERS, "--dataset": ("gsm8k", "x"),
    "--acceptance": LAWS, "--policy": POLICIES, "--engine": ("sglang-0.5.14", "0.5", "x"),
    "--mem-fraction-static": NUMBERS, "--page-size": NUMBERS, "--quantization": ("fp8", "x"),
    "--kv-cache-dtype": ("fp8_e4m3", "auto", "x"), "--max-running-requests": NUMBERS,
    "--temperature": NUMBERS, "--num-prompts": NUMBERS, "--seed": NUMBERS, "--runs": NUMBERS,
    "--max-new-tokens": NUMBERS, "--from-launch": LAUNCH, "--preset": ("x", "launch"), "--format": ("csv", "x"),
    "--calibration": ("none", "shipped", "x"), "--draft-model": ("x", "/"), "--profiles": (".", "x"),
    "--tag": ("=1+1", "\x1b[31m"), "--interval": ("90", "x"), "--engine-mode": ("v1", "v2", "x"),
    "--chunked-prefill-size": NUMBERS, "--build": ("2026-06", "x"), "--time-unit": ("s", "x"),
    "--set": ("conc=1", "x=y", "conc"), "--shard": ("1/2", "2/1", "x"), "--jobs": NUMBERS,
    "--tune": ("block", "x"), "--trace": ("x", "."), "--where": FILTERS, "--assume": ("gpu=h200", "x"),
    "-o": (".", "x/y", "/dev/full"), "--phase": ("verify", "x"), "--over": ("conc", "x"),
}  # fmt: skip
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


def all_targets() -> Iterator[Target]:
    """Everything that is fuzzed."""
    readers = seeds(DATA / "readers", "*/*.json*", "*/*.csv", "*/*.prom", "*/*.log", largest=20_000)
    yield Target("benchmark files", at("rows.json", observations), of_seeds(readers), 8)
    traces = seeds(DATA / "traces", "*.csv", "*.jsonl")
    yield Target("traces", at("trace", trace), of_seeds(traces), 8)
    engines = seeds(PROFILES / "engines", "*.toml")
    whole = [text for text in engines if b"extends" not in text[:3000]]
    yield Target("engine sheets", sheet("engines/mine.toml", engine), of_seeds(whole or engines), 3)
    devices = seeds(PROFILES / "devices", "*.toml")
    yield Target("GPU sheets", sheet("devices/mine.toml", device), of_seeds(devices), 6)
    nodes = seeds(PROFILES / "nodes", "*.toml")
    load = sheet("nodes/mine.toml", lambda: load_node("mine"))
    yield Target("node sheets", load, of_seeds(nodes), 4)
    workloads = seeds(PROFILES / "workloads", "*.toml")
    load = sheet("workloads/mine.toml", lambda: load_dataset("mine"))
    yield Target("data set sheets", load, of_seeds(workloads), 4)
    configs = seeds(PROFILES / "models", "*.json") + seeds(DATA / "hf", "*.json")
    load = sheet("models/mine.json", lambda: load_model("mine"))
    yield Target("model configs", load, of_seeds(configs), 8)
    drafters = seeds(PROFILES / "drafters", "*.json")
    load = sheet("drafters/mine-dflash.json", lambda: load_drafter("mine-dflash"))
    yield Target("drafter configs", load, of_seeds(drafters), 6)
    presets = seeds(PROFILES / "presets", "*.yaml")
    load = at("mine.yaml", lambda path: load_preset(str(path)))
    yield Target("presets", load, of_seeds(presets), 4)
    study = b"scenario: {model: qwen3-8b, gpu: h200}\ngrid:\n  block: [4, 8]\n  conc: 1-32:x2\n"
    load = at("mine.yaml", lambda path: load_study(path, []).points())
    yield Target("studies", load, of_seeds([study, *presets]), 4)
    calibrations = seeds(PROFILES / "calibrations", "*.toml")
    yield Target("calibrations", at("mine.toml", calibration), of_seeds(calibrations), 1)
    yield Target("profiles", at("mine.profile", profile), of_seeds([PROFILE]), 8)
    counts = [b'{"0": 161, "1": 90}', b"[161, 90]", b"accepted,steps\n0,161\n1,90\n"]
    yield Target("histograms", at("counts", read_histogram), of_seeds(counts), 10)
    for name, file, read in (
        ("accept lengths", "acceptance/accept_length.csv", load_acceptance),
        ("positions", "acceptance/positions.csv", load_survival),
        ("published rows", "published/throughput.csv", load_published),
    ):
        rows = [b"".join((PROFILES / file).read_bytes().splitlines(keepends=True)[:9])]
        yield Target(name, sheet(file, read), of_seeds(rows), 1)
    policy = text(lambda words: parse_policy(words, block=16))
    yield Target("policies", policy, of_words(*POLICIES, *NUMBERS, *SIGNS), 16)
    yield Target("acceptance", text(acceptance), of_words(*LAWS, *NUMBERS, *SIGNS), 16)
    yield Target("filters", text(parse_filter), of_words(*FILTERS, *NUMBERS, *SIGNS), 16)
    yield Target("launch commands", text(scenario_from_launch), of_words(*LAUNCH), 16)
    ranges = text(lambda words: (whole_numbers("-n", words), real_numbers("-x", words)))
    yield Target("ranges", ranges, of_words(*NUMBERS, *SIGNS), 12)
    yield Target("shards", text(shard_of), of_words(*NUMBERS, "/"), 4)
    yield Target("command lines", command, command_line, 8)


PROFILE = b"""{"format": "dflash-sim profile", "version": 1, "machine": {"host": "x"},
"device": {"title": "mine", "vendor": "me", "matmul_flop_s": 1e12, "copy_byte_s": 1e11,
 "mem_bytes": 8e10, "sm_count": 8, "l2_bytes": 1e6},
"scope": {"model": "tiny", "tp": 1}, "made": {"by": "test"}, "skipped": [],
"ops": [{"kind": "Gemm", "shape": {"n": 64, "k": 64, "m": 1}, "seconds": 1e-5,
 "mean_s": 1.1e-5, "spread": 0.01, "nbytes": 8192.0, "flops": 8192.0}],
"passes": [{"phase": "verify", "requests": 1, "rows": 4, "ctx": 64.0, "seconds": 1e-3,
 "ops_s": 9e-4, "unmeasured": 1}]}"""
