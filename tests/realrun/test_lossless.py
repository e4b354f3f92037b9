"""Speculation, batching and overlap change no token of greedy decoding."""

from functools import cache

import pytest

torch = pytest.importorskip("torch", reason="the engine is written in torch")
pytest.importorskip("safetensors", reason="checkpoints are safetensors files")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from real_engine import greedy_text, knowing, serve_inline, setup, target  # noqa: E402
from tiny_networks import TARGETS, random_ids  # noqa: E402

from dflash_sim.realrun.job.requests import Request  # noqa: E402
from dflash_sim.realrun.job.setup import METHODS, MODES  # noqa: E402

SPECULATIVE = [name for name, m in METHODS.items() if m.speculative]
# Families with an MTP layer: the others have none to draft with.
WITH_MTP = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


@cache
def answer(family: str, request: Request) -> tuple[int, ...]:
    return greedy_text(target(family), request)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Request, ...]:
    """Ragged prompts; stop tokens common enough to be met."""
    count = draw(st.integers(1, 6))
    return tuple(
        Request(
            prompt=tuple(
                random_ids(draw(st.integers(1, 24)), seed=draw(st.integers(0, 9))).tolist()
            ),
            max_new_tokens=draw(st.integers(1, 24)),
            stop=frozenset(range(draw(st.sampled_from([0, 0, 3, 9])))),
        )
        for _ in range(count)
    )


QUICK = ("qwen3", "qwen3_next")  # plain; delta nets and experts


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in TARGETS],
)
@settings(max_examples=12)
@given(data=st.data())
def test_no_token_changes(family: str, data: st.DataObject) -> None:
    """Any method, block, mode, page, chunk, batch mix and share of wrong drafts; float32."""
    asked = data.draw(requests())
    methods = [
        name for name, m in METHODS.items() if m.network != "mtp-layer" or family in WITH_MTP
    ]
    method = data.draw(st.sampled_from(methods))
    want = [answer(family, r) for r in asked]
    texts = [(*r.prompt, *w) for r, w in zip(asked, want, strict=True)]
    page = data.draw(st.sampled_from([1, 3, 4, 16]))
    made = setup(
        family,
        method,
        mode=data.draw(st.sampled_from(MODES)),
        block=data.draw(st.integers(2, 5)),
        steps=data.draw(st.integers(1, 4)),
        page_size=page,
        max_running_requests=data.draw(st.integers(1, 4)),
        chunked_prefill_size=max(page, data.draw(st.sampled_from([4, 10, 64]))),
        wrap=knowing(texts, wrong=data.draw(st.sampled_from([0.0, 0.2, 1.0]))),
    )
    run, _ = serve_inline(made, asked, conc=data.draw(st.integers(1, 6)))
    assert [a.output for a in run.answers] == want


@pytest.mark.parametrize("method", SPECULATIVE)
def test_an_acceptance_that_keeps_too_much_is_seen(method: str) -> None:
    """The negative control: with every draft kept, wrong ones too, the text is another."""
    asked = [Request(prompt=(5, 7, 11), max_new_tokens=20)]
    want = answer("qwen3_5_text", asked[0])
    texts = [(*asked[0].prompt, *want)]
    made = setup("qwen3_5_text", method, wrap=knowing(texts, wrong=0.3), accept_length=4.0)
    run, _ = serve_inline(made, asked, conc=1)
    assert run.answers[0].output != want


@pytest.mark.parametrize(
    "method", [m if m == "dflash" else pytest.param(m, marks=pytest.mark.slow) for m in SPECULATIVE]
)
def test_what_the_drafters_learn_does_not_depend_on_the_batch(method: str) -> None:
    """Accepted counts are the same alone and among others, in every mode: caches are right."""
    asked = [
        Request(prompt=tuple(random_ids(n, seed=n).tolist()), max_new_tokens=40)
        for n in (4, 10, 18)
    ]

    def commits(**changes: object) -> list[tuple[int, ...]]:
        made = setup("qwen3_5_text", method, dtype="float64", **changes)
        return [a.commits for a in serve_inline(made, asked, conc=3)[0].answers]

    alone = commits(max_running_requests=1)
    assert max(map(max, alone)) > 1, "nothing was ever accepted: the test shows nothing"
    assert [commits(mode=mode) for mode in MODES] == [alone] * 3
    assert commits(chunked_prefill_size=4) == alone


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_on_a_cpu(dtype: str) -> None:
    """Attention, delta nets and the drafter take rows of the weights' own type."""
    asked = [Request(prompt=(5, 7, 11), max_new_tokens=6)]
    run, _ = serve_inline(setup("qwen3_5_text", "dflash", dtype=dtype), asked, conc=1)
    assert len(run.answers[0].output) == 6
