"""The parts of ``gpu_check.sh`` that are no tests, without the command line and what it needs."""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CONCS = (1, 8, 32)
PROMPT, ANSWER = 1024, 64  # tokens


def machine() -> Iterator[str]:
    """What this is; ``cuda: yes`` where torch has computed something on a GPU."""
    yield f"python: {platform.python_version()} on {platform.platform()}"
    import torch

    yield f"torch: {torch.__version__}, CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        yield "device: none that torch sees"
        return
    import triton

    made = torch.cuda.get_device_properties(0)
    yield f"triton: {triton.__version__}"
    yield f"device: {made.name}, {made.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()}"
    assert int(torch.ones(3, device="cuda").sum()) == 3
    yield "cuda: yes"
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit"]
    try:
        told = subprocess.run([*asked, "--format=csv"], capture_output=True, text=True, check=False)
        yield told.stdout.strip()
    except OSError as error:
        yield f"nvidia-smi: {error}"


def measure(model: str, output: Path, *, device: str = "cuda", **sizes: str) -> str:
    """``calibrate measure --quick``; what an interruption leaves is beside ``output``."""
    from dflash_sim.calibrate.measure.machine import choose_dtype
    from dflash_sim.calibrate.measure.measure import Measurement, to_text
    from dflash_sim.calibrate.measure.subjects import load_subject

    subject, name = load_subject(model, None, tp=1, device=device, quick=True, **sizes)
    job = Measurement(subject, device, choose_dtype(None, device), name, quick=True)
    report = job.run(output)
    output.write_text(to_text(report.profile), encoding="utf-8")
    Path(f"{output}.partial").unlink(missing_ok=True)
    failed = [row for row in report.profile["skipped"] if row["why"].startswith("failed")]
    for row in failed:
        print(f"{row['op']}: {row['why']}", flush=True)
    assert not failed, f"{len(failed)} ops failed"
    return f"{len(report.profile['ops'])} ops, drift {report.drift:.1%}"


def cut(model: str, layers: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configs of a model and its drafter, both as published but for the target's depth."""
    from dflash_sim.profiles.find import read_sheet
    from dflash_sim.profiles.load import find_drafter, find_network

    target = dict(read_sheet(find_network("models", model)[0]))
    drafter = dict(read_sheet(find_drafter("drafters", model)[0]))
    inner = dict(target.get("text_config") or target)
    depth = inner["num_hidden_layers"]
    inner["num_hidden_layers"] = min(layers, depth)
    if "text_config" in target:
        target["text_config"] = inner
    else:
        target = inner
    own = dict(drafter["dflash_config"])  # what it reads lies as deep in what is left
    own["target_layer_ids"] = [
        i * inner["num_hidden_layers"] // depth for i in own["target_layer_ids"]
    ]
    own["mask_token_id"] = own["mask_token_id"] or 0
    return target, drafter | {"dflash_config": own}


def job(folder: Path, conc: int, *, graphs: bool, accept_length: float, **changes: Any) -> Any:
    """A run of the networks in ``folder``, of random weights, not yet begun."""
    from dflash_sim.studies.real.run_question import Job, RunOptions

    given: dict[str, Any] = {
        "model": str(folder / "target"),
        "drafter": folder / "dflash",
        "random_weights": True,
        "device": "cuda",
        "dtype": "bfloat16",
        "cuda_graphs": graphs,
        "accept_length": accept_length,
        "block": 16,
        "conc": conc,
        "num_prompts": conc,
        "isl": PROMPT,
        "max_new_tokens": ANSWER,
    }
    return Job(RunOptions(**(given | changes)))


def captured(
    model: str,
    layers: int,
    accept_length: float,
    concs: Sequence[int] = CONCS,
    *,
    captures: bool = True,
    **changes: Any,
) -> Iterator[dict[str, Any]]:
    """The real loop by launches and by captured graphs, a row for each batch size.

    ``same_share`` is that of the tokens on which both agree: a batch that is padded to a captured
    size may round differently in bfloat16. Without ``captures``, for a CPU, both are launched.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for kind, config in zip(("target", "dflash"), cut(model, layers), strict=True):
            (folder / kind).mkdir()
            (folder / kind / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for conc in concs:
            rows, texts = {}, {}
            for graphs in (False, True):
                asked = job(
                    folder, conc, graphs=graphs and captures, accept_length=accept_length, **changes
                )
                ran = asked.run()
                if ran.failure is not None:
                    raise ran.failure
                rows[graphs] = ran.row
                texts[graphs] = [t for answer in ran.run.answers for t in answer.output]
            agreed = sum(a == b for a, b in zip(*texts.values(), strict=True))
            figures = ("step_ms", "output_throughput", "mean_ttft_ms", "accept_length_cycle")
            yield {
                "model": model,
                "layers": layers,
                "conc": conc,
                "same_share": round(agreed / len(texts[True]), 4),
                "launched": {name: rows[False][name] for name in figures},
                "captured": {name: rows[True][name] for name in figures},
            }


def main(words: Sequence[str]) -> int:
    """One part, its lines printed as they come."""
    parser = argparse.ArgumentParser(description="A part of gpu_check.sh.")
    parser.add_argument("part", choices=["machine", "measure", "captured"])
    parser.add_argument("--model", default="qwen3-8b")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--accept-length", type=float, default=6.5)
    parser.add_argument("-o", "--output", type=Path, default=Path("measure.profile"))
    asked = parser.parse_args(words)
    if asked.part == "machine":
        for line in machine():
            print(line, flush=True)
    elif asked.part == "measure":
        print(measure(asked.model, asked.output), flush=True)
    else:
        for row in captured(asked.model, asked.layers, asked.accept_length):
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
