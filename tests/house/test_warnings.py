"""Whose warnings fail the suite: ours do, those of other people's code are shown."""

import warnings

import pytest


def warn(kind: type[Warning], module: str) -> None:
    """Warn as the module would."""
    warnings.warn_explicit("something", kind, "file.py", 1, module=module)


@pytest.mark.parametrize("module", ["dflash_sim.simulator.predict", __name__])
@pytest.mark.parametrize("kind", [UserWarning, RuntimeWarning, ResourceWarning])
def test_ours_fail(module: str, kind: type[Warning]) -> None:
    with pytest.raises(kind):
        warn(kind, module)


@pytest.mark.parametrize("kind", [UserWarning, FutureWarning, DeprecationWarning, RuntimeWarning])
def test_theirs_are_shown(kind: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as shown:  # under the suite's own filters
        warn(kind, "transformers.utils.deprecation")
    assert [w.category for w in shown] == [kind]


@pytest.mark.parametrize("kind", [FutureWarning, DeprecationWarning, PendingDeprecationWarning])
def test_what_a_dependency_will_drop_is_shown(kind: type[Warning]) -> None:
    """Told of our line, but brought by a release of theirs."""
    with warnings.catch_warnings(record=True) as shown:  # under the suite's own filters
        warn(kind, "dflash_sim.simulator.predict")
    assert [w.category for w in shown] == [kind]
