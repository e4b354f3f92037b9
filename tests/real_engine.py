"""The real engine over tiny networks: setups, an oracle, drafters that know the answer."""

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tiny_networks import BASE, EXTRA, MARKOV, PATHS, RECURRENT, VOCAB, Drawn, Runner
from torch import Tensor

from dflash_sim.kernels.cache import Placement
from dflash_sim.kernels.comm import OneRank
from dflash_sim.kernels.layers.spec import read_target
from dflash_sim.kernels.models.cycle import Plain, Running
from dflash_sim.kernels.models.target import TargetModel
from dflash_sim.kernels.rank import ALONE
from dflash_sim.realrun.job.journal import Run
from dflash_sim.realrun.job.messages import Command, Result
from dflash_sim.realrun.job.networks import Network
from dflash_sim.realrun.job.requests import Request
from dflash_sim.realrun.job.setup import Fitted, Setup
from dflash_sim.realrun.launch import fit_requests
from dflash_sim.realrun.scheduler.scheduler import Scheduler
from dflash_sim.realrun.worker.device import Device
from dflash_sim.realrun.worker.judges import uniforms
from dflash_sim.realrun.worker.null_worker import NullWorker
from dflash_sim.realrun.worker.process import rank_of
from dflash_sim.realrun.worker.worker import Worker

# Everything divides by 8 ranks; two key-value heads are copied.
EIGHT = {
    "num_attention_heads": 8,
    "head_dim": 8,
    "linear_num_key_heads": 8,
    "shared_expert_intermediate_size": 24,
}
BLOCK = 5
SPAN = 256  # longest text of a test


def target(family: str = "qwen3", **changes: Any) -> Network:
    """A tiny target of a family."""
    config = BASE | EXTRA[family] | EIGHT | {"model_type": family} | changes
    return Network(config, f"tiny {family}", source=Drawn(family))


def drafter(**changes: Any) -> Network:
    """A tiny DFlash drafter of blocks of five."""
    config = BASE | {
        "num_attention_heads": 8,
        "head_dim": 8,
        "num_hidden_layers": 2,
        "block_size": BLOCK,
        "dflash_config": {"target_layer_ids": [0, 2], "mask_token_id": VOCAB - 1},
    }
    return Network(config | changes, "tiny drafter", source=Drawn())


def dflash2(**changes: Any) -> Network:
    """A tiny DFlash2 drafter: convolutions, and a path through the best five tokens."""
    return drafter(is_causal=False, **(PATHS | changes))


def dspark(**changes: Any) -> Network:
    """A tiny DSpark drafter of four drafts."""
    return drafter(**(MARKOV | changes))


def domino(**changes: Any) -> Network:
    """A tiny Domino drafter, whose GRU corrects every draft but the first."""
    return drafter(**(RECURRENT | changes))


def eagle(**changes: Any) -> Network:
    """A tiny EAGLE-3 head."""
    config = BASE | {"model_type": "llama", "num_attention_heads": 8, "head_dim": 8}
    config |= {"num_hidden_layers": 1, "draft_vocab_size": VOCAB // 2}
    return Network(config | changes, "tiny eagle", source=Drawn())


def setup(family: str = "qwen3", method: str = "none", **changes: Any) -> Setup:
    """A small engine: pages of four tokens, four slots."""
    given: dict[str, Any] = {"page_size": 4, "max_running_requests": 4, "timeout_s": 30.0}
    given |= {"target": target(family), "method": method}
    drafts = {
        "dflash": drafter,
        "dflash2": dflash2,
        "dspark": dspark,
        "domino": domino,
        "eagle3": eagle,
    }
    own = {"drafter": drafts[method]()} if method in drafts else {}
    return Setup(**(given | own | changes))


def greedy_text(network: Network, request: Request) -> tuple[int, ...]:
    """The answer, one token at a time by one network: no scheduler, no batch, no drafter."""
    spec = read_target(network.config, network.name)
    source = network.source
    assert source is not None
    runner = Runner(
        TargetModel(spec, source, ALONE, tokens=SPAN), ALONE, requests=1, tokens=SPAN, rows=1
    )
    logits = runner.extend(torch.tensor([request.prompt]))
    answer: list[int] = []
    while True:
        answer.append(int(logits[0, -1].argmax()))
        if answer[-1] in request.stop or len(answer) == request.max_new_tokens:
            return tuple(answer)
        logits = runner.extend(torch.tensor([answer[-1:]]))


def knowing(
    texts: Sequence[Sequence[int]], *, wrong: float, vocab: int = VOCAB
) -> Callable[[Plain], Plain]:
    """A wrapper: drafts are the given texts by request, some of them spoilt.

    The method's own drafter runs all the same, and learns.
    """
    known = torch.zeros((len(texts), SPAN), dtype=torch.int64)
    for rid, text in enumerate(texts):
        known[rid, : len(text)] = torch.tensor(text)

    def wrap(method: Plain) -> Plain:
        own = method.draft

        def draft(running: Running, at: Placement) -> Tensor:
            drafted = own(running, at)
            assert running.keys is not None
            places = running.context_lens[:, None] + torch.arange(drafted.shape[1])
            keys = running.keys[:, None].expand_as(places)
            right = known[keys, places.clamp(max=SPAN - 1)]
            spoilt = uniforms(1, keys, places) < wrong
            told = torch.where(spoilt, (right + 1) % vocab, right)
            told[:, 0] = drafted[:, 0]
            return told

        if method.block_rows > 1:
            method.draft = draft  # type: ignore[method-assign]
        return method

    return wrap


class Inline:
    """Workers of one rank in this process: every command is done when it is sent."""

    def __init__(self, executor: Worker | NullWorker) -> None:
        self.executor = executor
        self.results: deque[Result] = deque()

    def send(self, command: Command) -> None:
        self.results.append(self.executor.run(pickle.loads(pickle.dumps(command))))

    def receive(self) -> Result:
        return self.results.popleft()


def inline_worker(fitted: Fitted) -> Worker:
    """The worker of one rank, in this process."""
    comm = OneRank()
    return Worker(Device(fitted, rank_of(fitted.setup, comm, "cpu")), comm)


def serve_inline(
    made: Setup, requests: Sequence[Request], *, conc: int | None = None
) -> tuple[Run, Scheduler]:
    """As ``serve``, without processes."""
    fitted = fit_requests(made, requests, conc)
    worker = NullWorker(fitted) if made.null else inline_worker(fitted)
    scheduler = Scheduler(fitted, Inline(worker), requests, conc=conc)
    return scheduler.run(), scheduler
