"""Builds as people name them lead to the nearest engine sheet."""

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.engine_versions import match_engine, releases


@pytest.mark.parametrize(
    ("build", "version"),
    [
        ("0.5.14", (0, 5, 14)),
        ("v0.5.10.post1-cu130", (0, 5, 10)),
        ("lmsysorg/sglang:v0.5.9-cu129-amd64", (0, 5, 9)),
        ("SGLang 0.5.21.dev861 (bd66ce343e)", (0, 5, 20)),  # begun after 0.5.20
        ("nightly-dev-20260216-d3bae71e", (0, 5, 9)),  # a week before that release
        ("2026-03", (0, 5, 10)),
        ("2026-10-30", (0, 5, 23)),
        ("2031-01", (0, 5, 23)),  # the newest that is known
    ],
)
def test_a_build_has_the_code_of_a_release(build: str, version: tuple[int, int, int]) -> None:
    found = match_engine(build)
    assert found is not None
    assert found.version == version


def test_the_sheet_is_the_newest_that_is_no_newer() -> None:
    home = match_engine("0.5.14")
    assert home is not None
    assert (home.engine, home.exact) == ("sglang-0.5.14", True)
    for text in ("0.4.1", "1.2.3"):
        found = match_engine(text)
        assert found is not None
        assert not found.exact


@pytest.mark.parametrize("build", ["first release", "PR 19952", "main", ""])
def test_a_build_without_version_or_date_has_none(build: str) -> None:
    assert match_engine(build) is None


@pytest.mark.parametrize("build", ["vllm 0.19.0", "TensorRT-LLM 1.3.0rc20"])
def test_another_engine_is_refused_by_name(build: str) -> None:
    with pytest.raises(UsageError, match="simulates SGLang"):
        match_engine(build)


def test_releases_are_in_the_order_of_their_days() -> None:
    days = list(releases().values())
    assert days == sorted(days)
    assert list(releases()) == sorted(releases())
