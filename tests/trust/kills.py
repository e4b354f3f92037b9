"""Commands that are stopped at a random moment, and what must be left of them.

``make kill`` runs this file; ``python tests/trust/kills.py --seed 7 --kills 40`` a part of it.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).parents[1]))
from programs import Program

ORPHANS_S = 2.0  # in which every process has ended after its parent
ENDS_S = 10.0  # in which a command has ended that was asked to
LONGEST_S = 60.0  # in which a moment is chosen
WORKS_S = 300.0  # in which one whose worker was killed has gone on to its end
LASTS_S = 8.0  # in which a moment is chosen of one that does not end by itself
HOWS = ("interrupt", "terminate", "kill", "worker")
ROWS = Path(__file__).parents[1] / "data/readers/sglang_bench_serving"
# Commands by name: words, and files that they may leave when they are stopped.
SMALL = "--model qwen3-8b --gpu h200 --isl 512 --osl 64 --num-prompts 16"
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "predict": (f"predict {SMALL} --block 8,16 --conc 1,8 --interval none -o rows.jsonl", ()),
    "sweep": (
        "sweep study.yaml --jobs 2 --interval none --no-baseline --format jsonl -o runs",
        (
            "study.yaml",
            "runs/study.json",
            "runs/points-1-of-1.jsonl",
            "runs/points-1-of-1.lock",
        ),
    ),
    "plan": (f"plan {SMALL} --rate 2 --duration 60 --tpot 20 --jobs 2 -o plan.json", ()),
    "fit": (
        "calibrate fit rows.csv -o fit.toml --jobs 2 --allow-partial --format json",
        ("rows.csv",),
    ),
    "validate": (
        "validate --observations rows.csv --jobs 2 --allow-partial --calibration none "
        "--format jsonl -o rows.jsonl --report page.html",
        ("rows.csv",),
    ),
    "run": (
        "run --tp 2 --num-prompts 8 --max-new-tokens 64 -o row.jsonl --requests answers.jsonl",
        ("answers.jsonl", "row.jsonl"),
    ),
    "validate --real": (
        "validate --real --num-prompts 8 --rounds 1 --blocks 4 --concs 1 --modes v2 "
        "--max-new-tokens 16 -o rows.jsonl",
        ("rows.jsonl",),
    ),
    "measure": (
        "calibrate measure --model tiny --quick -o here.profile",
        ("here.profile.partial",),
    ),
    "live": (
        "calibrate live --url http://127.0.0.1:{port} --assume gpu=h200 --minutes 1 --jobs 2 "
        "-o live.toml",
        ("live.rows.jsonl",),
    ),
    "serve": (f"serve {SMALL} --port {{port}}", ()),
    "ui": (f"ui {SMALL} --port {{port}} --no-browser", ()),
}
LASTING = {"serve", "ui"}  # they end when they are told to
STUDY = """scenario: {model: qwen3-8b, gpu: h200, isl: 512, osl: 64, num_prompts: 16}
grid: {block: [4, 8, 16], conc: 1-8:x2}
"""
OUTPUTS = {  # there whole, or not at all
    "rows.jsonl", "row.jsonl", "runs/rows.jsonl", "plan.json", "fit.toml", "page.html",
    "here.profile", "live.toml",
}  # fmt: skip
TABLE = """model,drafter,method,block,gpu,num_gpus,tp,concurrency,output_tok_s,accept_length,isl,osl
qwen3-8b,,none,1,h200,1,1,1,190,,512,512
qwen3-8b,,none,1,h200,1,1,8,1400,,512,512
qwen3-8b,qwen3-8b-dflash,dflash,16,h200,1,1,1,560,4.1,512,512
qwen3-8b,qwen3-8b-dflash,dflash,16,h200,1,1,8,3600,4.1,512,512
"""


@dataclass(frozen=True)
class Ended:
    """What became of a command that was stopped; ``wrong`` says what should not have been."""

    name: str
    how: str
    after_s: float
    code: int | None
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "; ".join(self.wrong) or "right"
        return f"{self.name}, {self.how} after {self.after_s:.2f} s: code {self.code}, {verdict}"


def stopped(name: str, how: str, after_s: float, folder: Path) -> Ended:
    """Begin a command, stop it after a time, and look at what is left."""
    words, allowed = COMMANDS[name]
    work, scratch = folder / "work", folder / "tmp"
    work.mkdir(parents=True)
    scratch.mkdir()
    given(work)
    wrong, lasts = list[str](), name in LASTING
    with beside(name) as port:
        typed = words.format(port=port).split()
        program = Program("-m", "dflash_sim", *typed, cwd=work, env={"TMPDIR": str(scratch)})
        time.sleep(after_s)
        done = program.process.poll() is not None
        if not done:
            _stop(program, how)
        if lasts and how == "worker":
            time.sleep(1.0)
            _stop(program, "terminate")
        try:
            program.process.wait(WORKS_S if how == "worker" and not lasts else ENDS_S)
        except subprocess.TimeoutExpired:
            wrong.append("it did not end")
        if left := program.left(ORPHANS_S):
            wrong.append(f"{len(left)} processes are left")
        told = program.end()
    code = program.process.returncode
    if "Traceback" in told or "Error:" in told or "Exception" in told:
        wrong.append(f"it said {told[-600:]!r}")
    if code not in (_codes("terminate" if lasts and how == "worker" else how, done)):
        wrong.append(f"exit code {code}: {told[-200:]!r}")
    wrong += _files(work, scratch, allowed, whole=how != "kill")
    return Ended(name, how, after_s, code, tuple(wrong))


@contextmanager
def beside(name: str) -> Iterator[int]:
    """A port, and what a command has there: clients that ask, or a server that it measures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    if name == "serve":
        over = Event()
        asking = [Thread(target=_ask, args=(port, over), daemon=True) for _ in range(4)]
        for client in asking:
            client.start()
        yield port
        over.set()
        for client in asking:
            client.join(ENDS_S)
    elif name == "live":
        words = f"serve {SMALL} --conc 8 --port {port}"
        server = Program("-m", "dflash_sim", *words.split())
        try:
            while not _answers(port):
                time.sleep(0.1)
            yield port
        finally:
            server.end()
    else:
        yield port


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _ask(port: int, over: Event) -> None:
    """Have answers streamed, one after the other, whatever becomes of the server."""
    body = json.dumps({"prompt": "x", "max_tokens": 64, "ignore_eos": True, "stream": True})
    while not over.wait(0.02):
        with suppress(OSError, http.client.HTTPException):
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with closing(line):
                line.request("POST", "/v1/completions", body)
                line.getresponse().read()


def given(folder: Path) -> None:
    """Put the files that commands read."""
    (folder / "rows.csv").write_text(TABLE)
    (folder / "study.yaml").write_text(STUDY)


def _stop(program: Program, how: str) -> None:
    if how == "interrupt":
        os.killpg(program.process.pid, signal.SIGINT)
    elif how == "terminate":
        program.process.terminate()
    elif how == "kill":
        program.process.kill()
    else:
        workers = sorted(program.processes() - {program.process.pid})
        for pid in random.sample(workers, k=min(1, len(workers))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _codes(how: str, done: bool) -> set[int]:
    if done:
        return {0, 4}
    return {
        "interrupt": {130, -signal.SIGINT},
        "terminate": {-signal.SIGTERM},
        "kill": {-signal.SIGKILL},
        "worker": {0, 1, 4},
    }[how] | {0, 4}  # it may have ended by itself at that moment


def _files(work: Path, scratch: Path, allowed: tuple[str, ...], *, whole: bool) -> Iterator[str]:
    """Say what lies there that should not, or is not whole."""
    # torch keeps its own cache there; what is killed cannot remove the folder of a first profile.
    kept = ("torchinductor",) if whole else ("torchinductor", "dflash-sim-")
    left = [path.name for path in scratch.iterdir() if not path.name.startswith(kept)]
    if left:
        yield f"scratch files are left: {left}"
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if path.is_dir() or (not whole and path.name.startswith(".dflash-sim-scratch-")):
            continue  # a half file of one that was killed: the next that writes there removes it
        if name not in (*allowed, *OUTPUTS, "rows.csv", "study.yaml"):
            yield f"{name} is left"
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            lines = [text] if path.suffix == ".json" else text.splitlines()
            if name in allowed and not whole and not text.endswith("\n"):
                lines = lines[:-1]
            try:
                for line in lines:
                    json.loads(line)
            except ValueError:
                yield f"{name} is not whole"


def resumed(folder: Path) -> list[str]:
    """Go on with a sweep that was stopped; return its rows."""
    words = COMMANDS["sweep"][0].split()
    if (folder / "work/runs/study.json").exists():
        words.append("--resume")
    command = [sys.executable, "-m", "dflash_sim", *words]
    subprocess.run(command, cwd=folder / "work", check=True, capture_output=True)
    return (folder / "work/runs/rows.jsonl").read_text().splitlines()


def durations(names: list[str], folder: Path) -> dict[str, float]:
    """How long each command takes when nobody stops it [s]."""
    found = dict.fromkeys(LASTING, LASTS_S)
    for name in [name for name in names if name not in LASTING]:
        begin = time.monotonic()
        try:
            whole = str(stopped_never(name, folder / name.replace(" ", "")))
        except subprocess.TimeoutExpired:
            whole = "unknown, it goes on"
        found[name] = time.monotonic() - begin
        print(f"{name} takes {found[name]:.1f} s, code {whole}", flush=True)
    return found


def stopped_never(name: str, folder: Path) -> int:
    """Run a command to its end; return its exit code."""
    folder.mkdir(parents=True)
    given(folder)
    with beside(name) as port:
        program = Program(
            "-m", "dflash_sim", *COMMANDS[name][0].format(port=port).split(), cwd=folder
        )
        try:
            told = program.process.communicate(timeout=LONGEST_S)[1]
        finally:
            program.end()
    if program.process.returncode not in (0, 4):
        raise SystemExit(told)
    return program.process.returncode


def campaign(kills: int, seed: int, names: list[str]) -> int:
    """Stop commands at random moments; print what is wrong, and return how often."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    draw = random.Random(seed)
    random.seed(seed)
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        took = durations(names, Path(scratch) / "whole")
        rows = (Path(scratch) / "whole/sweep/runs/rows.jsonl") if "sweep" in names else None
        for i in range(kills):
            turn, at = divmod(i, len(names))
            name, how = names[at], HOWS[(at + turn) % len(HOWS)]
            folder = Path(scratch) / str(i)
            ended = stopped(name, how, draw.uniform(0.1, took[name]), folder)
            faults += bool(ended.wrong)
            print(f"{i + 1}/{kills} {ended}", flush=True)
            if name == "sweep" and rows and resumed(folder) != rows.read_text().splitlines():
                faults += 1
                print("  resumed, it has other rows", flush=True)
    print(f"seed {seed}: {kills} stopped, {faults} wrong")
    return faults


if __name__ == "__main__":
    asked = argparse.ArgumentParser()
    asked.add_argument("--kills", type=int, default=200)
    asked.add_argument("--seed", type=int, default=int(time.time()))
    asked.add_argument("--only", help="commands, with commas between", default="")
    o = asked.parse_args()
    sys.exit(bool(campaign(o.kills, o.seed, o.only.split(",") if o.only else list(COMMANDS))))
