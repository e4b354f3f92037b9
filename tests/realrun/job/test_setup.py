"""What does not fit together is refused before a process starts, and named."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from real_engine import BLOCK, drafter, eagle, setup, target  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tiny_networks import VOCAB, Drawn  # noqa: E402

from dflash_sim.kernels.layers.spec import read_drafter, read_target  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.profiles.errors import DflashSimError, InfeasibleError, UsageError  # noqa: E402
from dflash_sim.realrun.job.networks import Network  # noqa: E402
from dflash_sim.realrun.job.prompts import read_prompts  # noqa: E402
from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import Setup  # noqa: E402
from dflash_sim.realrun.launch import serve  # noqa: E402
from dflash_sim.realrun.scheduler import crew  # noqa: E402

ASKED = [Request(prompt=(3, 1, 4), max_new_tokens=8)]
TAPS = {"target_layer_ids": [0, 9], "mask_token_id": VOCAB - 1}
UNMASKED = {"target_layer_ids": [0, 2]}
FAR_MASK = {"target_layer_ids": [0, 2], "mask_token_id": VOCAB}


def captured(method: str, **changes: Any) -> Setup:
    return setup("qwen3", method, device="cuda", cuda_graphs=True, **changes)


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(crew.Crew, "_start", started)


@pytest.mark.parametrize(
    ("made", "error", "said"),
    [
        (
            setup("qwen3", "dflash", drafter=drafter(vocab_size=95)),
            UsageError,
            "tiny drafter was not made for tiny qwen3: vocabulary 95, target's 96",
        ),
        (setup("qwen3", "dflash", drafter=drafter(hidden_size=64)), UsageError, "hidden size 64"),
        (
            setup("qwen3", "dflash", drafter=drafter(dflash_config=TAPS)),
            UsageError,
            r"layers \[9\]",
        ),
        (
            setup("qwen3", "dflash", drafter=drafter(dflash_config=FAR_MASK)),
            UsageError,
            "96 is not",
        ),
        (
            setup("qwen3", "dflash", drafter=drafter(dflash_config=UNMASKED)),
            UsageError,
            "names no mask_token_id",
        ),
        (setup("qwen3", "dflash", drafter=None), UsageError, "needs a DFlash drafter"),
        (setup("qwen3", "dflash", block=BLOCK + 1), UsageError, "block 6 is not in 2..5"),
        (setup("qwen3", "eagle3", drafter=eagle(hidden_size=64)), UsageError, "hidden size 64"),
        (setup("qwen3", "eagle3", steps=0), UsageError, "at least one token"),
        (setup("qwen3", "mtp"), UsageError, "has no MTP layer"),
        (setup("qwen3", method="turbo"), UsageError, "unknown method 'turbo'"),
        (setup("qwen3", mode="v3"), UsageError, "unknown engine mode"),
        (setup("qwen3", dtype="int4"), UsageError, "unknown dtype"),
        (setup("qwen3", tp=3), UsageError, "cannot be split over tp=3"),
        (setup("qwen3", tp=0), UsageError, "tp is 0"),
        (setup("qwen3", temperature=-1.0), UsageError, "temperature is -1; it must be from 0"),
        (setup("qwen3", temperature=float("nan")), UsageError, "temperature is nan"),
        (setup("qwen3", timeout_s=float("nan")), UsageError, "timeout is nan s"),
        (setup("qwen3", timeout_s=0.0), UsageError, "timeout is 0 s"),
        (setup("qwen3", host_work_s=-1.0), UsageError, "host work is -1 s"),
        (setup("qwen3", seed=-1), UsageError, "seed is -1"),
        (setup("qwen3", kv_tokens=10**15), InfeasibleError, "and this machine has"),
        (setup("qwen3", "dflash", accept_length=6.0), UsageError, "not in 1..5"),
        (setup("qwen3", chunked_prefill_size=2), UsageError, "holds no page"),
        (setup("qwen3", kv_tokens=8), InfeasibleError, "the longest request needs"),
        (setup("qwen3", cuda_graphs=True), UsageError, "a CPU has no graphs"),
        (captured("dflash", mode="v1"), UsageError, "every cycle of v1"),
        (captured("eagle3"), UsageError, "eagle3 waits for the host"),
        (captured("dflash", temperature=0.7), UsageError, "a step that samples waits"),
    ],
)
def test_parts_that_do_not_fit(made: Setup, error: type[DflashSimError], said: str) -> None:
    with pytest.raises(error, match=said):
        serve(made, ASKED, conc=1)


@pytest.mark.parametrize(
    ("asked", "conc", "said"),
    [
        ([], 1, "no request"),
        ([replace(ASKED[0], prompt=())], 1, "empty prompt"),
        ([replace(ASKED[0], prompt=(VOCAB,))], 1, "token 96 is not in a vocabulary of 96"),
        ([replace(ASKED[0], max_new_tokens=0)], 1, "asks for no token"),
        (ASKED, 0, "conc is 0"),
    ],
)
def test_requests_that_cannot_be_run(asked: list[Request], conc: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        serve(setup(), asked, conc=conc)


def write_pair(folder: Path, **target_changes: Any) -> None:
    """A target and a drafter as Hugging Face folders."""
    for name, network in (("target", target(**target_changes)), ("dflash", drafter())):
        drawn = Drawn()
        if name == "target":
            TargetModel(read_target(network.config, name), drawn, tokens=8)
        else:
            Drafter(read_drafter(network.config, name), drawn, tokens=8)
        (folder / name).mkdir()
        config = json.dumps(dict(network.config))
        (folder / name / "config.json").write_text(config, encoding="utf-8")
        weights = {key: value.float() for key, value in drawn.made.items()}
        save_file(weights, folder / name / "model.safetensors")


def of_folder(folder: Path, **changes: Any) -> Setup:
    given: dict[str, Any] = {
        "target": Network.folder(folder / "target"),
        "drafter": Network.folder(folder / "dflash"),
    }
    return setup("qwen3", "dflash", **(given | changes))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def scramble(file: Path) -> None:
    file.write_bytes(b"\x00" * 64)


@pytest.mark.parametrize("spoil", [truncate, scramble, Path.unlink])
@pytest.mark.parametrize("name", ["target", "dflash"])
def test_corrupt_checkpoints(tmp_path: Path, name: str, spoil: Any) -> None:
    write_pair(tmp_path)
    spoil(tmp_path / name / "model.safetensors")
    with pytest.raises(UsageError, match=name):
        serve(of_folder(tmp_path), ASKED, conc=1)


def test_checkpoints_of_another_network(tmp_path: Path) -> None:
    """Every tensor that is missing or misshapen is named, without reading any."""
    write_pair(tmp_path)
    made = of_folder(tmp_path)
    narrow = dict(made.target.config) | {"intermediate_size": 40}
    other = Network(narrow, "narrow", path=made.target.path)
    with pytest.raises(
        UsageError, match=r"mlp.gate_proj.weight is \[48, 32\], expected \[40, 32\]"
    ):
        serve(replace(made, target=other), ASKED, conc=1)
    deep = Network(dict(made.target.config) | {"num_hidden_layers": 5}, "deep", path=other.path)
    with pytest.raises(UsageError, match=r"layers.4.*is missing"):
        serve(replace(made, target=deep), ASKED, conc=1)


def test_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match="expected a JSON object"):
        Network.folder(tmp_path)
    with pytest.raises(UsageError, match="cannot be read"):
        Network.folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "cannot be read as JSON lines"),
        ("", "no prompt in it"),
        ('{"prompt": []}', "line 1: expected"),
        ('{"prompt": [1, 300]}', "token ids below 256"),
        ('{"text": "x"}', "line 1: expected"),
    ],
)
def test_prompts_that_are_none(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read_prompts(file, 256)


def test_text_is_bytes_for_byte_level_vocabularies_alone(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "aé"}\n\n{"prompt": [3, 4]}\n', encoding="utf-8")
    assert read_prompts(file, 256) == [(97, 0xC3, 0xA9), (3, 4)]
    with pytest.raises(UsageError, match="tokenise it first"):
        read_prompts(file, 96)


def test_the_engine_needs_no_simulator() -> None:
    """It runs on hosts without simpy and pydantic."""
    code = """
import sys
sys.modules["simpy"] = sys.modules["pydantic"] = sys.modules["scipy"] = None
import dflash_sim.realrun.launch, dflash_sim.realrun.row, dflash_sim.realrun.worker.gpu
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_predicted_alone_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="method injection-only is predicted, not run for real"):
        serve(replace(setup("qwen3", "dflash"), method="injection-only"), ASKED, conc=1)


def test_an_answer_ends_at_the_tokens_of_both_configs(tmp_path: Path) -> None:
    """Chat models name the end of a turn in the second file alone."""
    folder = tmp_path / "chat"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 1}}))
    assert Network.folder(folder).end_tokens == {1}
    own = folder / "generation_config.json"
    own.write_text(json.dumps({"eos_token_id": [1, 5]}))
    assert Network.folder(folder).end_tokens == {1, 5}
    own.write_text("[]")
    with pytest.raises(UsageError, match=r"generation_config\.json: expected a JSON object"):
        Network.folder(folder)
