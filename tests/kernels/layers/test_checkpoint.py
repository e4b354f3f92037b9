"""Checkpoints: what is read from where, and what is said when it does not fit."""

import json
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the layers are written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from safetensors.torch import save_file  # noqa: E402
from tiny_networks import (  # noqa: E402
    BASE,
    DOUBLE,
    Drawn,
    Runner,
    drafter_spec,
    random_ids,
    target_spec,
)
from torch import Tensor  # noqa: E402

from dflash_sim.kernels.comm import Comm, run_locally  # noqa: E402
from dflash_sim.kernels.layers.checkpoint import (  # noqa: E402
    RandomTensors,
    SafetensorsFolder,
    Source,
    Tensors,
)
from dflash_sim.kernels.layers.spec import read_target  # noqa: E402
from dflash_sim.kernels.models.drafter import Drafter  # noqa: E402
from dflash_sim.kernels.models.heads import MtpHead  # noqa: E402
from dflash_sim.kernels.models.target import TargetModel  # noqa: E402
from dflash_sim.kernels.rank import ALONE, Rank  # noqa: E402
from dflash_sim.profiles.errors import UsageError  # noqa: E402

FAMILY = "qwen3_5_moe_text"


def weights(family: str = FAMILY) -> dict[str, Tensor]:
    """Every tensor a model of the family asks for."""
    drawn = Drawn(family)
    TargetModel(target_spec(family), drawn, DOUBLE, tokens=8)
    return drawn.made


def logits(source: Source, family: str = FAMILY, rank: Rank = DOUBLE) -> Tensor:
    runner = Runner(TargetModel(target_spec(family), source, rank, tokens=32), rank)
    return runner.run(random_ids(2, 6))


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model."])
@pytest.mark.parametrize("files", [1, 3])
def test_a_folder_is_the_dictionary_it_was_saved_from(
    prefix: str, files: int, tmp_path: Path
) -> None:
    made = weights()
    renamed = {
        name.replace("model.", prefix, 1) if name.startswith("model.") else name: tensor
        for name, tensor in made.items()
    }
    names = sorted(renamed)
    for i in range(files):
        part = {name: renamed[name].contiguous() for name in names[i::files]}
        save_file(part, tmp_path / f"model-{i}.safetensors")
    assert torch.equal(logits(SafetensorsFolder(tmp_path)), logits(Tensors(made)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30, 7e4])
def test_weights_that_no_network_has_are_named(value: float, tmp_path: Path) -> None:
    made = {name: tensor.contiguous().clone() for name, tensor in weights().items()}
    name = next(name for name in made if name.endswith("o_proj.weight"))
    made[name].view(-1)[0] = value
    save_file(made, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=f"{name} has values that are not finite, or above 65504"):
        logits(SafetensorsFolder(tmp_path))


def test_ranks_read_their_parts_of_a_folder(tmp_path: Path) -> None:
    made = weights()
    save_file({k: v.contiguous() for k, v in made.items()}, tmp_path / "model.safetensors")
    whole = logits(Tensors(made))

    def work(comm: Comm) -> Tensor:
        rank = Rank(comm=comm, dtype=torch.float64)
        return logits(SafetensorsFolder(tmp_path), rank=rank)

    for part in run_locally(4, work):
        assert torch.allclose(part, whole, atol=1e-10)


def test_experts_one_by_one_or_together() -> None:
    together = weights()
    apart: dict[str, Tensor] = {}
    for name, tensor in together.items():
        head, _, kind = name.rpartition(".")
        if kind == "gate_up_proj":
            for e, (gate, up) in enumerate(t.chunk(2) for t in tensor):
                apart[f"{head}.{e}.gate_proj.weight"] = gate
                apart[f"{head}.{e}.up_proj.weight"] = up
        elif kind == "down_proj" and tensor.dim() == 3:
            apart |= {f"{head}.{e}.down_proj.weight": down for e, down in enumerate(tensor)}
        else:
            apart[name] = tensor
    assert len(apart) > len(together)
    assert torch.equal(logits(Tensors(apart)), logits(Tensors(together)))


def test_every_missing_and_misshapen_tensor_is_named() -> None:
    made = weights("qwen3")
    del made["model.layers.1.mlp.up_proj.weight"], made["lm_head.weight"]
    made["model.layers.0.self_attn.o_proj.weight"] = torch.zeros(7, 64)
    with pytest.raises(UsageError) as caught:
        logits(Tensors(made), "qwen3")
    said = str(caught.value)
    assert "model.layers.1.mlp.up_proj.weight is missing" in said
    assert "lm_head.weight is missing" in said
    assert "model.layers.0.self_attn.o_proj.weight is [7, 64], expected [32, 64]" in said


def test_a_wholly_different_checkpoint_is_not_listed_to_the_end() -> None:
    with pytest.raises(UsageError, match=r"; and \d+ more$"):
        logits(Tensors({"transformer.wte.weight": torch.zeros(2, 2)}), "qwen3")


def test_quantized_weights_are_refused() -> None:
    made = weights("qwen3")
    name = "model.layers.0.mlp.down_proj.weight"
    made[name] = made[name].to(torch.int8)
    with pytest.raises(UsageError, match=r"down_proj.weight is torch.int8"):
        logits(Tensors(made), "qwen3")


def test_a_drafter_is_found_with_and_without_a_prefix() -> None:
    drawn = Drawn()
    Drafter(drafter_spec(), drawn, DOUBLE, tokens=8)
    assert {"fc.weight", "hidden_norm.weight", "norm.weight"} < set(drawn.made)
    prefixed = Tensors({f"model.{name}": t for name, t in drawn.made.items()})
    assert torch.equal(
        Drafter(drafter_spec(), prefixed, DOUBLE, tokens=8).fc, drawn.made["fc.weight"]
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is it a checkpoint"),
        ({"pytorch_model.bin": b"\x80\x02}q\x00."}, "pickled weights are not read"),
        ({"model.safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00{"}, "cannot be read as safe"),
        ({"model.safetensors.index.json": b"{"}, "cannot be read as JSON"),
        ({"model.safetensors.index.json": b"[]"}, "expected a JSON object"),
    ],
)
def test_a_folder_that_is_no_checkpoint(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        SafetensorsFolder(tmp_path)


def test_an_index_that_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    listed = dict.fromkeys(weights("qwen3"), "model-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(UsageError, match=r"model-00002\.safetensors"):
        logits(SafetensorsFolder(tmp_path), "qwen3")


@pytest.mark.parametrize("family", ["qwen3_moe", FAMILY])
def test_random_weights_make_a_network_that_computes(family: str) -> None:
    first, again = (logits(RandomTensors(), family, ALONE) for _ in range(2))
    assert torch.equal(first, again)
    assert first.isfinite().all()
    assert first.std() > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "biases"),
        ({"model_type": "gpt_oss", "num_experts": 2, "num_experts_per_tok": 1}, "sinks"),
    ],
)
def test_what_is_not_written_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    config = BASE | {"model_type": "qwen3"}
    with pytest.raises(UsageError, match=said):
        read_target(config | changes, "odd")


NO_NUMBERS: list[dict[str, object]] = [
    {"rms_norm_eps": float("nan")},
    {"rms_norm_eps": -1},
    {"rope_theta": float("inf")},
    {"rope_parameters": {"rope_theta": 0}},
    {"partial_rotary_factor": 1.5},
    {"rope_parameters": "default"},
    {"rope_scaling": {"type": ["default"]}},
    {"text_config": "qwen3"},
]


@pytest.mark.parametrize("changes", NO_NUMBERS, ids=str)
def test_what_would_be_computed_without_a_meaning_is_refused(changes: dict[str, object]) -> None:
    config = BASE | {"model_type": "qwen3"}
    assert read_target(config, "odd").numerics.eps == 1e-6
    with pytest.raises(UsageError, match=f"{next(iter(changes))}|rope_theta|rotary embedding"):
        read_target(config | changes, "odd")


def test_a_target_without_mtp_has_no_mtp_head() -> None:
    with pytest.raises(UsageError, match="no MTP layer"):
        MtpHead(target_spec("qwen3"), Drawn(), tokens=8)


def test_the_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    readme = Path(__file__).parents[3] / "kernels" / "README.md"
    (example,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "torch.Size([16]) torch.Size([16, 128])\n"
