"""What an architecture, a GPU or a host has of its own, and who keeps it from a fit at home."""

from pathlib import Path

import pytest

from dflash_sim.profiles.errors import UsageError
from dflash_sim.profiles.releases.calibration import load_calibration
from dflash_sim.profiles.releases.engine_sheet import HOME, load_engine

ENGINE = load_engine(HOME)


def test_home_and_unknown_architectures_are_as_the_sheet_has_them() -> None:
    assert ENGINE.on("blackwell", "b200") is ENGINE
    assert ENGINE.on("cdna3") is ENGINE


def test_an_architecture_has_its_own_constants_and_kernels() -> None:
    hopper = ENGINE.on("hopper", "h200", "")
    assert hopper["norm_kernel"] > ENGINE["norm_kernel"]
    assert "norm_kernel" in hopper.own
    assert hopper.wide is not None
    assert hopper["small_kernel"] == ENGINE["small_kernel"]


def test_an_architecture_like_another_shares_its_kernels_but_not_its_constants() -> None:
    hopper, ampere = ENGINE.on("hopper"), ENGINE.on("ampere")
    assert hopper.wide is not None
    assert ampere.wide is not None
    assert ampere.wide.kernels == hopper.wide.kernels
    assert ampere.wide.arch == "ampere"
    assert not ampere.own


def test_a_slow_host_is_slow_behind_any_gpu() -> None:
    for gpu, arch in (("gh200", "hopper"), ("gb300", "blackwell")):
        assert ENGINE.on(arch, gpu, "grace")["host_factor"] == 1.6


def test_a_fit_at_home_does_not_move_what_is_traced_elsewhere() -> None:
    shipped = load_calibration("shipped", ENGINE)
    assert shipped is not None
    there = shipped.applied(ENGINE.on("hopper", "gh200", "grace"))
    assert there["table_factor"] == 1.0
    assert shipped.applied(ENGINE)["table_factor"] > 1.0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('[elsewhere.mars]\nlike = "venus"', "like of .*venus"),
        (
            '[elsewhere.mars.constants.no_kernel]\nvalue = 1\nunit = "us"\n'
            'evidence = "assumed"\nrel_err = 0\nsource = "x"',
            "constant of .*no_kernel",
        ),
        (
            '[elsewhere.mars.constants.norm_kernel]\nvalue = 0\nunit = "us"\n'
            'evidence = "assumed"\nrel_err = 0\nsource = "x"',
            "norm_kernel: value 0 .* above 0",
        ),
        ('[elsewhere.mars.attention.triton]\nkernel = "decode"', "lacks 'factor'"),
        ('[elsewhere.mars.attention.triton]\nkernel = "magic"', "kernel of .*magic"),
    ],
)
def test_a_bad_entry_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str
) -> None:
    (tmp_path / "engines").mkdir()
    text = f'extends = "{HOME}"\nname = "mine-1"\ntitle = "mine"\nversion = "0.0.1"\n{entry}\n'
    (tmp_path / "engines" / "mine-1.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("DFLASH_SIM_PROFILES", str(tmp_path))
    with pytest.raises(UsageError, match=message) as caught:
        load_engine("mine-1")
    assert "\n" not in str(caught.value)
