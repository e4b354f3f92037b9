"""``import dflash_sim`` costs nothing, and yet every name is seen before it is used."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dflash_sim as ds

SOURCE = Path(ds.__file__)
HEAVY = {"numpy", "pandas", "scipy", "plotly", "torch", "rich", "pydantic", "yaml", "typer"}


def loaded(code: str) -> set[str]:
    """Packages and modules of ours in memory after running ``code``."""
    show = "import sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_import_loads_nothing() -> None:
    found = loaded("import dflash_sim as ds; dir(ds); ds.__version__")
    assert found & HEAVY == set()
    assert {name for name in found if name.startswith("dflash_sim")} == {"dflash_sim"}


def test_a_result_loads_no_pandas() -> None:
    found = loaded("import dflash_sim as ds; ds.predict, ds.UsageError, ds.Result")
    assert "numpy" in found
    assert found & {"pandas", "scipy", "plotly", "torch", "simpy"} == set()


def test_real_runs_load_no_torch_until_they_run() -> None:
    assert "torch" not in loaded("import dflash_sim as ds; ds.run, ds.measure, ds.validate_real")


def test_every_name_is_there_for_people_and_for_editors() -> None:
    """``__all__``, ``dir``, the lazy table and the imports that type checkers see agree."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    seen = {
        alias.name: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted(ds.__all__)
    assert set(ds.__all__) <= set(dir(ds))
    for name, module in seen.items():
        found = getattr(ds, name)
        assert found is getattr(sys.modules[module], name)
        assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predicts'"):
        ds.predicts  # noqa: B018
