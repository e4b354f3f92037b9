"""What is fuzzed: every reader of a file, sheet, small language and command, and every server."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors
from trust.languages import typed
from trust.mutations import mutated, renumbered
from trust.target import LONGEST, Target, WrongError, check

from dflash_sim.calibrate.measure.partial_file import Journal
from dflash_sim.calibrate.readers.read import read_observations
from dflash_sim.calibrate.readers.request_traces import read_trace
from dflash_sim.kernels.layers.checkpoint import Misfit, SafetensorsFolder
from dflash_sim.kernels.layers.spec import read_drafter, read_eagle3, read_target
from dflash_sim.profiles.acceptance.histogram_file import read_histogram
from dflash_sim.profiles.errors import UsageError
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
from dflash_sim.profiles.phases import load_kernels
from dflash_sim.profiles.presets import load_preset
from dflash_sim.profiles.releases.calibration import load_calibration, read_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine
from dflash_sim.profiles.times.machine_profile import load_measured
from dflash_sim.profiles.times.op_file import Matrix
from dflash_sim.profiles.times.op_folder import OpFolder
from dflash_sim.profiles.ways_in import json_object
from dflash_sim.realrun.job.prompts import read_prompts
from dflash_sim.simulator.predict import predict
from dflash_sim.simulator.scenario import Scenario
from dflash_sim.studies.ask.study import load_study
from dflash_sim.studies.sweep.folder import SweepFolder

ROOT = Path(__file__).parents[2]
DATA, PROFILES = ROOT / "tests/data", ROOT / "profiles"


def seeds(folder: Path, *patterns: str, largest: int = 60_000) -> list[bytes]:
    """Files of ours to begin with."""
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    found = [p.read_bytes() for p in paths]
    assert found, (folder, patterns)
    return [text[:largest] for text in found]


def of_seeds(texts: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    return lambda draw: mutated(draw.choice(texts), texts, draw)


def renumbering(texts: Sequence[bytes]) -> Callable[[random.Random], bytes]:
    return lambda draw: renumbered(draw.choice(texts), draw)


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


SMALL = {"model": "qwen3-8b", "gpu": "h200", "conc": 2, "isl": 64, "osl": 16, "num_prompts": 4}


def answer(**mine: str) -> Callable[[], object]:
    """A prediction with the numbers of a sheet."""

    def take() -> object:
        asked = Scenario.parse(**{**SMALL, "runs": 1, **mine})
        values = predict(asked, with_baseline=False, with_interval=False).values
        for name in ("output_throughput", "mean_ttft_ms", "mean_tpot_ms"):
            check(name, values[name], 1e-9, 1e9)
        return values

    return take


def published(load: Callable[[], Sequence[object]]) -> Callable[[], object]:
    """A loader of published rows, whose own numbers it looks at."""

    def take() -> object:
        found = load()
        for name, most in (("accept_len", 1024), ("survival", 1), ("output_tok_s", 1e9)):
            values = [v for row in found if (v := getattr(row, name, None)) is not None]
            for value in (min(values, default=0.0), max(values, default=0.0), sum(values) / 1e9):
                check(name, value, 0.0, most)
        return found

    return take


def operator_times(data: bytes, folder: Path) -> object:
    (folder / "meta.toml").write_text(f"[rel_err]\n[x]\ncells = {data.count(b',') // 2}\n")
    (folder / "x.csv").write_bytes(data)
    return OpFolder(folder).table("x", Matrix.lines)


def partial(path: Path) -> object:
    found = Journal(path.with_name("x"), {"model": "tiny"})
    found.close()
    return found


def swept(path: Path) -> object:
    (path.parent / "points-1-of-1.jsonl").write_bytes(b'{"point": 0, "row": {"x": NaN}}\n')
    found = SweepFolder.found(path.parent)
    return found.done()


def weights(data: bytes, folder: Path) -> object:
    (folder / "model.safetensors").write_bytes(data)
    try:
        opened = SafetensorsFolder(folder)
        return opened.has("a") and opened.read("a", (2, 3), 0, [(0, 2)])
    except Misfit as error:  # named by whoever loads it
        raise UsageError(str(error)) from error


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


def network(path: Path) -> object:
    """A network that would be run, as a target, a drafter and a head."""
    config, found = json_object(path), list[object]()
    for read in (read_target, read_drafter, read_eagle3):
        with suppress(UsageError):
            found.append(read(config, "mine"))
    if not found:
        msg = "none of them"
        raise UsageError(msg)
    return found


def all_targets() -> list[Target]:
    """Everything that is fuzzed."""
    return [*files(), *sheets(), *typed(), *served()]


def files() -> Iterator[Target]:
    """Readers of files that are named."""
    readers = seeds(DATA / "readers", "*/*.json*", "*/*.csv", "*/*.prom", "*/*.log", largest=20_000)
    yield Target("benchmark files", at("rows.json", observations), of_seeds(readers), 5)
    traces = seeds(DATA / "traces", "*.csv", "*.jsonl")
    yield Target("traces", at("trace", trace), of_seeds(traces), 8)
    study = b"scenario: {model: qwen3-8b, gpu: h200}\ngrid:\n  block: [4, 8]\n  conc: 1-32:x2\n"
    presets = seeds(PROFILES / "presets", "*.yaml")
    load = at("mine.yaml", lambda path: load_preset(str(path)))
    yield Target("presets", load, of_seeds(presets), 4)
    load = at("mine.yaml", lambda path: load_study(path, []).points())
    yield Target("studies", load, of_seeds([study, *presets]), 4)
    yield Target("profiles", at("mine.profile", profile), of_seeds([PROFILE]), 16)
    counts = [b'{"0": 161, "1": 90}', b"[161, 90]", b"accepted,steps\n0,161\n1,90\n"]
    yield Target("histograms", at("counts", read_histogram), of_seeds(counts), 24)
    prompts = [b'{"prompt": [1, 2, 3]}\n{"prompt": "abc"}\n']
    load = at("prompts", lambda path: read_prompts(path, 300))
    yield Target("prompts", load, of_seeds(prompts), 16)
    begun = [b'{"model": "tiny"}\n{"key": "a", "seconds": 1.0}\n{"key": "b", "why": "x"}\n']
    yield Target("partial profiles", at("x.partial", partial), of_seeds(begun), 12)
    grid = {"scenario": {"model": "qwen3-8b"}, "grid": {"block": [4, 8]}, "points": 2}
    asked = [json.dumps({**grid, "points_hash": "x", "program": "y"}, indent=1).encode()]
    yield Target("sweeps", at("study.json", swept), of_seeds(asked), 2)
    tensors = safetensors.save({"a": np.zeros((2, 3), np.float32), "b": np.ones(3, np.float16)})
    yield Target("weights", weights, of_seeds([tensors]), 12)


def served() -> Iterator[Target]:
    """What goes to a server and comes from one, where the extras that it takes are installed."""
    if all(map(find_spec, ("starlette", "uvicorn", "httpx"))):
        from trust.answers import told
        from trust.requests import asked

        yield from asked()
        yield from told()
    if find_spec("dash"):
        from trust.pages import shown

        yield from shown(seeds(DATA / "readers", "*/*.json*", "*/*.csv", largest=20_000))


def sheets() -> Iterator[Target]:
    """Sheets below a folder of the user's."""
    engines = seeds(PROFILES / "engines", "*.toml")
    whole = [text for text in engines if b"extends" not in text[:3000]]
    yield Target("engine sheets", sheet("engines/mine.toml", engine), of_seeds(whole or engines), 3)
    devices = seeds(PROFILES / "devices", "*.toml")
    configs = seeds(PROFILES / "models", "*.json") + seeds(DATA / "hf", "*.json")
    for name, place, mine, texts in (
        ("answers", "engines/mine.toml", {"engine": "mine"}, whole),
        ("answers of a GPU", "devices/mine.toml", {"gpu": "mine"}, devices),
        ("answers of a model", "models/mine.json", {"model": "mine", "method": "none"}, configs),
    ):
        yield Target(name, sheet(place, answer(**mine)), renumbering(texts), 1)
    yield Target("GPU sheets", sheet("devices/mine.toml", device), of_seeds(devices), 8)
    nodes = seeds(PROFILES / "nodes", "*.toml")
    load = sheet("nodes/mine.toml", lambda: load_node("mine"))
    yield Target("node sheets", load, of_seeds(nodes), 4)
    workloads = seeds(PROFILES / "workloads", "*.toml")
    load = sheet("workloads/mine.toml", lambda: load_dataset("mine"))
    yield Target("data set sheets", load, of_seeds(workloads), 4)
    load = sheet("models/mine.json", lambda: load_model("mine"))
    yield Target("model configs", load, of_seeds(configs), 10)
    drafters = seeds(PROFILES / "drafters", "*.json")
    load = sheet("drafters/mine-dflash.json", lambda: load_drafter("mine-dflash"))
    yield Target("drafter configs", load, of_seeds(drafters), 6)
    pair = seeds(PROFILES / "pairs/tiny", "*/config.json")
    yield Target("configs to run", at("config.json", network), of_seeds(pair), 10)
    calibrations = seeds(PROFILES / "calibrations", "*.toml")
    yield Target("calibrations", at("mine.toml", calibration), of_seeds(calibrations), 1)
    for name, file, read in (
        ("accept lengths", "acceptance/accept_length.csv", load_acceptance),
        ("positions", "acceptance/positions.csv", load_survival),
        ("published rows", "published/throughput.csv", load_published),
        ("kernel times", "published/kernels.csv", load_kernels),
    ):
        rows = [b"".join((PROFILES / file).read_bytes().splitlines(keepends=True)[:9])]
        yield Target(name, sheet(file, published(read)), of_seeds(rows), 1)


PROFILE = b"""{"format": "dflash-sim profile", "version": 1, "machine": {"host": "x"},
"device": {"title": "mine", "vendor": "me", "matmul_flop_s": 1e12, "copy_byte_s": 1e11,
 "mem_bytes": 8e10, "sm_count": 8, "l2_bytes": 1e6},
"scope": {"model": "tiny", "tp": 1}, "made": {"by": "test"}, "skipped": [],
"ops": [{"kind": "Gemm", "shape": {"n": 64, "k": 64, "m": 1}, "seconds": 1e-5,
 "mean_s": 1.1e-5, "spread": 0.01, "nbytes": 8192.0, "flops": 8192.0}],
"passes": [{"phase": "verify", "requests": 1, "rows": 4, "ctx": 64.0, "seconds": 1e-3,
 "ops_s": 9e-4, "unmeasured": 1}]}"""
