"""Train the tiny pair of profiles/pairs/tiny from nothing, and measure it: one command, 2 cores.

    python studies/training/tiny_pair.py [--out DIR] [--measure-only]

A byte-level Qwen3.5 of four full-attention layers with an MTP layer, a DFlash drafter for blocks
of up to 16, and an EAGLE-3 head; the text comes from tiny_corpus.py beside this file.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny_corpus as corpus
import tiny_training as training
import torch
from safetensors.torch import save_file
from tiny_measure import Blocks, Chain, Outcome, Plain
from tiny_training import Weights
from torch import Tensor
from torch.nn.functional import cross_entropy

from dflash_sim.kernels.layers.checkpoint import SafetensorsFolder, Tensors
from dflash_sim.kernels.layers.spec import read_drafter, read_eagle3, read_target
from dflash_sim.kernels.models.drafter import Drafter
from dflash_sim.kernels.models.heads import Eagle3Head, MtpHead
from dflash_sim.kernels.models.target import TargetModel

ROOT = Path(__file__).parents[2]
OUT = ROOT / "profiles/pairs/tiny"
VOCAB, HIDDEN, LAYERS, MASK = 264, 128, 4, 257
SEED, DOCUMENTS, PROMPTS = 1, 6000, 160
MEASURED, NEW = 64, 192  # prompts, and new tokens of each
TAPS, BLOCKS = (1, 2, 3), (4, 8, 16)
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": training.PLACES,
    "eos_token_id": corpus.EOS,
    "dtype": "bfloat16",
}
ROPE = {"rope_type": "default", "rope_theta": 100.0}
TARGET = SHAPE | {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "num_hidden_layers": LAYERS,
    "layer_types": ["full_attention"] * LAYERS,
    "attn_output_gate": True,
    "mtp_num_hidden_layers": 1,
    "rope_parameters": ROPE | {"partial_rotary_factor": 0.5},
    "tie_word_embeddings": True,
}
DFLASH = SHAPE | {
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "target": "tiny",
    "num_hidden_layers": 2,
    "layer_types": ["full_attention"] * 2,
    "rope_parameters": ROPE,
    "tie_word_embeddings": False,
    "block_size": max(BLOCKS),
    "num_target_layers": LAYERS,
    "dflash_config": {"mask_token_id": MASK, "target_layer_ids": list(TAPS)},
}
EAGLE3 = SHAPE | {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "target": "tiny",
    "num_hidden_layers": 1,
    "draft_vocab_size": VOCAB,
    "rope_parameters": ROPE,
    "tie_word_embeddings": False,
    "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(TAPS)},
}
SPEC = read_target(TARGET, "tiny")
DFLASH_SPEC, EAGLE3_SPEC = read_drafter(DFLASH, "tiny dflash"), read_eagle3(EAGLE3, "tiny eagle3")


class Fresh:
    """A checkpoint that makes up what a network asks for: the weights that training starts from.

    Norms do nothing yet; matrices keep the variance of their input, save those at the end of a
    residual branch, which add little.
    """

    def __init__(self, *, norm: float, seed: int) -> None:
        self.norm, self.draw = norm, torch.Generator().manual_seed(seed)
        self.weights: Weights = {}

    def has(self, name: str) -> bool:
        """Everything but a table of token ids."""
        return name != "d2t"

    def read(self, name: str, shape: tuple[int, ...], dim: int, ranges: Any) -> Tensor:
        """A new tensor, remembered under its name."""
        made = torch.full(shape, self.norm)
        if len(shape) > 1:
            damped = name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight"))
            scale = (1 / 3 if damped else 1) / math.sqrt(shape[1])
            made = torch.randn(shape, generator=self.draw) * scale
        self.weights[name] = made
        return Tensors(self.weights).read(name, shape, dim, ranges)


def fresh_target(seed: int) -> Weights:
    """A target with its MTP layer."""
    made = Fresh(norm=0.0, seed=seed)
    TargetModel(SPEC, made, tokens=1)
    MtpHead(SPEC, made, tokens=1)
    return made.weights


def fresh_dflash(target: Weights, seed: int) -> Weights:
    """A drafter whose layers are the target's last, as far as they are alike."""
    made = Fresh(norm=1.0, seed=seed)
    Drafter(DFLASH_SPEC, made, tokens=1)
    dim, skipped = SHAPE["head_dim"], LAYERS - DFLASH["num_hidden_layers"]
    for name, mine in made.weights.items():
        if not name.startswith("layers."):
            continue
        index, rest = name.removeprefix("layers.").split(".", 1)
        theirs = target[f"model.layers.{int(index) + skipped}.{rest}"]
        if rest == "self_attn.q_proj.weight":
            theirs = theirs.unflatten(0, (-1, 2 * dim))[:, :dim].flatten(0, 1)
        mine.copy_(theirs + 1 if mine.ndim == 1 else theirs)
        if rest == "self_attn.o_proj.weight":
            mine.mul_(0.5)
    return made.weights


def fresh_eagle3(seed: int) -> Weights:
    """An EAGLE-3 head."""
    made = Fresh(norm=1.0, seed=seed)
    Eagle3Head(EAGLE3_SPEC, made, tokens=1)
    return made.weights


class Training:
    """AdamW over some weights, with a rate that rises, stays and falls to nothing."""

    def __init__(self, weights: Weights, *, rate: float, steps: int, what: str) -> None:
        self.weights, self.rate, self.steps, self.what = list(weights.values()), rate, steps, what
        for weight in self.weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.AdamW(self.weights, betas=(0.9, 0.95), fused=True)
        self.begun = time.monotonic()

    def step(self, index: int, loss: Tensor) -> None:
        """Follow the gradient of ``loss``."""
        left = (self.steps - index) / (0.4 * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (index + 1) / 50, left)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if index % 100 == 99 or index + 1 == self.steps:
            took_s = time.monotonic() - self.begun
            print(f"{self.what} {index + 1}: loss {loss.item():.3f}, {took_s:.0f} s", flush=True)

    def end(self) -> None:
        """No more gradients; what is stored is what is used."""
        for weight in self.weights:
            weight.requires_grad_(False)
            weight.copy_(weight.bfloat16().float())


def tokens_of(texts: list[str]) -> Tensor:
    """All texts one after the other, each with its end."""
    return torch.tensor([t for text in texts for t in (*text.encode(), corpus.EOS)])


def windows(text: Tensor, count: int, length: int, draw: torch.Generator) -> Tensor:
    """Random parts [count, length] of a text."""
    starts = torch.randint(0, len(text) - length, (count, 1), generator=draw)
    return text[starts + torch.arange(length)]


def train_target(text: Tensor, *, short: int, long: int, seed: int) -> Weights:
    """A target that has read windows of 128 bytes, then of 512; its MTP layer knows nothing yet."""
    weights, draw = fresh_target(seed), torch.Generator().manual_seed(seed)
    body = {name: w for name, w in weights.items() if not name.startswith("mtp.")}
    trainer = Training(body, rate=6e-3, steps=short + long, what="target")
    for index in range(short + long):
        ids = windows(text, *((6, 129) if index < short else (2, 513)), draw)
        logits = training.read(weights, SPEC, ids[:, :-1]).logits
        trainer.step(index, cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    trainer.end()
    return weights


def said_by(weights: Weights, *, requests: int, new: int, seed: int) -> Tensor:
    """What the target says after openings of training documents, one after the other."""
    openings = [list(p.encode()) for p in corpus.prompts(requests, seed=seed, held_out=False)]
    out = Plain(TargetModel(SPEC, Tensors(weights), tokens=1024), len(openings)).run(openings, new)
    return torch.tensor([t for p, said in zip(openings, out.texts, strict=True) for t in p + said])


def train_drafters(
    weights: Weights, text: Tensor, said: Tensor, *, steps: int, seed: int
) -> tuple[Weights, Weights]:
    """DFlash drafter and EAGLE-3 head; the target's MTP layer is trained beside them.

    Windows alternate between the corpus and what the target says; labels are the target's argmax.
    """
    draw, table = torch.Generator().manual_seed(seed), weights["model.embed_tokens.weight"]
    dflash, eagle3 = fresh_dflash(weights, seed + 1), fresh_eagle3(seed + 2)
    mtp = {name: w for name, w in weights.items() if name.startswith("mtp.")}
    every = {"dflash": dflash, "eagle3": eagle3, "mtp": mtp}
    flat = {f"{who} {name}": w for who, ws in every.items() for name, w in ws.items()}
    trainer = Training(flat, rate=4e-3, steps=steps, what="drafters")
    for index in range(steps):
        ids = windows(said if index % 2 else text, 2, 512, draw)
        with torch.no_grad():
            seen = training.read(weights, SPEC, ids, TAPS)
        rows = (16, 8, 16, 4)[index // 2 % 4]
        anchors = torch.randint(8, 512 - rows, (2, 256 // rows), generator=draw)
        loss = training.dflash_loss(dflash, DFLASH_SPEC, table, seen, ids, anchors, rows)
        one = training.Seen(seen.features[:1], seen.final[:1], seen.logits[:1])
        loss = loss + training.chain_loss(weights, SPEC, table, one, ids[:1])
        loss = loss + training.chain_loss(eagle3, EAGLE3_SPEC, table, one, ids[:1])
        trainer.step(index, loss)
    trainer.end()
    return dflash, eagle3


def save(folder: Path, config: dict[str, Any], weights: Weights) -> None:
    """A folder as Hugging Face lays it out, in bfloat16, which a wheel can compress."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    short = {name: w.detach().bfloat16().contiguous() for name, w in sorted(weights.items())}
    save_file(short, folder / "model.safetensors", metadata={"format": "pt"})


def measured(out: Path, prompts: list[list[int]], new: int) -> Iterator[tuple[str, Outcome]]:
    """Every method over the saved pair; the first is plain decoding."""
    folder, count = SafetensorsFolder(out / "target"), len(prompts)
    target = TargetModel(SPEC, folder, tokens=1024)
    drafter = Drafter(DFLASH_SPEC, SafetensorsFolder(out / "dflash"), tokens=1024)
    eagle3 = Eagle3Head(EAGLE3_SPEC, SafetensorsFolder(out / "eagle3"), tokens=1024)
    yield "plain", Plain(target, count).run(prompts, new)
    for rows in BLOCKS:
        yield f"dflash, block {rows}", Blocks(target, drafter, count, rows).run(prompts, new)
    mtp = MtpHead(SPEC, folder, tokens=1024)
    yield "mtp, 3 steps", Chain(target, mtp, count, 3).run(prompts, new)
    yield "eagle3, 3 steps", Chain(target, eagle3, count, 3, TAPS).run(prompts, new)


def show(out: Path, held: list[str], new: int) -> None:
    """Print accept lengths, overall and by kind of prompt, and some of the text."""
    prompts = [list(prompt.encode()) for prompt in held]
    kinds = [kind.__name__ for kind in corpus.KINDS]
    print(f"\ntokens per verify{'all':>8}" + "".join(f"{kind:>10}" for kind in kinds))
    plain: list[list[int]] = []
    for method, outcome in measured(out, prompts, new):
        plain = plain or outcome.texts
        by_kind: dict[str, list[int]] = {kind: [] for kind in kinds}
        for prompt, gained in zip(held, outcome.gained, strict=True):
            by_kind[corpus.kind_of(prompt)] += gained
        means = "".join(f"{sum(n) / len(n):10.2f}" for n in by_kind.values())
        same = sum(a == b for a, b in zip(plain, outcome.texts, strict=True))
        print(f"{method:17}{outcome.accept_length:8.2f}{means}  same text {same}/{len(plain)}")
    for prompt, said in list(zip(held, plain, strict=True))[: len(kinds)]:
        text = bytes(t if t < corpus.EOS else ord("~") for t in said).decode(errors="replace")
        print(f"\n>>> {prompt}|{text}")


def main() -> None:
    """Train, save, measure."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--out", type=Path, default=OUT)
    ask.add_argument("--threads", type=int, default=1, help="other sums, so other weights")
    ask.add_argument("--measure-only", action="store_true")
    given = ask.parse_args()
    torch.set_num_threads(given.threads)
    held = corpus.prompts(PROMPTS, seed=SEED + 4)
    if not given.measure_only:
        begun = time.monotonic()
        text = tokens_of(corpus.documents(DOCUMENTS, seed=SEED))
        weights = train_target(text, short=1200, long=500, seed=SEED + 1)
        said = said_by(weights, requests=112, new=384, seed=SEED + 2)
        print(f"the target said {len(said)} tokens, {time.monotonic() - begun:.0f} s", flush=True)
        dflash, eagle3 = train_drafters(weights, text, said, steps=900, seed=SEED + 3)
        save(given.out / "target", TARGET, weights)
        save(given.out / "dflash", DFLASH, dflash)
        save(given.out / "eagle3", EAGLE3, eagle3)
        lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in held]
        (given.out / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
        took_s, cpu_s = time.monotonic() - begun, time.process_time()
        print(f"trained in {took_s:.0f} s, {cpu_s:.0f} s of CPU time", flush=True)
    show(given.out, held[:MEASURED], NEW)


if __name__ == "__main__":
    main()
