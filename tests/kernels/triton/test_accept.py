"""Accept, commit and argmax in Triton equal their references, bit for bit."""

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("triton", reason="needs triton")

from triton_interpreter import interpret  # noqa: E402

from dflash_sim.kernels.reference import accept as ref_accept  # noqa: E402
from dflash_sim.kernels.reference import draft as ref_draft  # noqa: E402
from dflash_sim.kernels.triton import accept as triton_accept  # noqa: E402

MASK_ID = 151669


def outcomes(requests: int, rows: int, device: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """Drafts and answers; over the requests, every count of leading matches occurs."""
    rng = torch.Generator().manual_seed(0)
    draft = torch.randint(0, 250000, (requests, rows), generator=rng)
    answer = torch.randint(0, 250000, (requests, rows), generator=rng)
    for request in range(requests):
        kept = request % (rows + 1)
        answer[request, :kept] = draft[request, 1 : kept + 1] if kept < rows else answer[request]
        if kept == rows - 1:  # a bonus that is token 0, which is nobody's next proposal
            answer[request, -1] = 0
        if kept == rows:  # every proposal but the first matches
            answer[request, 1:-1] = draft[request, 2:]
    return draft.to(device), answer.to(device)


def check_accept(device: str, *, requests: int, rows: int) -> None:
    draft, answer = outcomes(requests, rows, device)
    expected = ref_accept.greedy_accept(draft, answer)
    got = triton_accept.greedy_accept(draft, answer)
    for name, a, b in zip(expected._fields, got, expected, strict=True):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
    if requests > rows:
        assert set(got.accept_len.tolist()) == set(range(rows))


def check_commit(device: str, *, requests: int, rows: int, page: int, lens: str) -> None:
    """The commit equals the plain composition: keep, advance, lay out the next block."""
    draft, answer = outcomes(requests, rows, device)
    rng = torch.Generator().manual_seed(1)
    context = torch.randint(0, 50, (requests,), generator=rng).to(device, getattr(torch, lens))
    pages = (50 + 2 * rows) // page + 1
    table = torch.randperm(requests * pages, generator=rng).view(requests, pages)
    table = table.to(device, torch.int32)

    def slots_at(positions: torch.Tensor) -> torch.Tensor:
        return table.long().gather(1, positions // page) * page + positions % page

    accepted = ref_accept.greedy_accept(draft, answer)
    step = torch.arange(rows, device=device)
    now = slots_at(context.long()[:, None] + step)
    kept = torch.where(step < accepted.commit_len[:, None], now, -1)
    lengths = context.long() + accepted.commit_len
    ids, positions = ref_draft.block_inputs(accepted.bonus, lengths, rows=rows, mask_id=MASK_ID)
    expected = (lengths, kept, ids, positions, slots_at(positions))
    got, commit = triton_accept.accept_and_commit(
        draft, answer, context, table, page_size=page, mask_id=MASK_ID
    )
    assert all(torch.equal(a, b) for a, b in zip(got, accepted, strict=True))
    for name, a, b in zip(commit._fields, commit, expected, strict=True):
        assert torch.equal(a, b), name


def check_argmax(device: str, dtype: str, *, rows: int, width: int) -> None:
    """Ties are common at this spacing, and the lowest id wins; a row may be all -inf."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randint(-50, 4, (rows, width), generator=rng).to(device, getattr(torch, dtype))
    logits[0] = -torch.inf
    expected = ref_draft.local_argmax(logits, 1000)
    got = triton_accept.local_argmax(logits, 1000)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


ACCEPTS = [(7, 5), (20, 16), (1, 1), (3, 2)]
WIDTHS = [(3, 5000), (2, 7), (2, 4096), (9, 12001)]


@pytest.mark.parametrize(("requests", "rows"), ACCEPTS)
def test_accept_interpreted(requests: int, rows: int) -> None:
    interpret(__file__, "check_accept", device="cpu", requests=requests, rows=rows)


@pytest.mark.parametrize(("page", "lens"), [(1, "int64"), (4, "int32"), (64, "int64")])
def test_commit_interpreted(page: int, lens: str) -> None:
    case = {"requests": 7, "rows": 5, "page": page, "lens": lens}
    interpret(__file__, "check_commit", device="cpu", **case)


@pytest.mark.parametrize(("rows", "width"), WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_argmax_interpreted(dtype: str, rows: int, width: int) -> None:
    interpret(__file__, "check_argmax", device="cpu", dtype=dtype, rows=rows, width=width)


@pytest.mark.gpu
@pytest.mark.parametrize(("requests", "rows"), [*ACCEPTS, (512, 16)])
def test_accept_on_a_gpu(requests: int, rows: int) -> None:
    check_accept("cuda", requests=requests, rows=rows)
    check_commit("cuda", requests=requests, rows=rows, page=16, lens="int64")


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "width"), [*WIDTHS, (16, 248320), (512, 31040)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_argmax_on_a_gpu(dtype: str, rows: int, width: int) -> None:
    check_argmax("cuda", dtype, rows=rows, width=width)
