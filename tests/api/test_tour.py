"""The tour of the Python API runs, and its notebook is the script's, as it was run."""

import json
import runpy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs/tutorial/python_tour.py"
NOTEBOOK: dict[str, Any] = json.loads(SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8"))
MOST_BYTES = 200_000


def maker() -> ModuleType:
    """The module that makes the notebook."""
    spec = spec_from_file_location("notebook", ROOT / "docs/notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_holds_the_cells_of_the_script() -> None:
    made = [(c["cell_type"], "".join(c["source"])) for c in NOTEBOOK["cells"]]
    assert made == list(maker().cells(SCRIPT.read_text(encoding="utf-8"))), "run `make docs`"


def test_cells_begin_at_their_marks() -> None:
    script = '# %% [markdown]\n# # Title\n#\n# Words\n\n# %%\nx = 1\n\nprint("# %%")\n'
    found = [("markdown", "# Title\n\nWords"), ("code", 'x = 1\n\nprint("# %%")')]
    assert list(maker().cells(script)) == found


def test_the_notebook_was_run_and_is_small() -> None:
    shown = [output for c in NOTEBOOK["cells"] for output in c.get("outputs", ())]
    assert {output["output_type"] for output in shown} <= {"execute_result", "display_data"}
    kinds = {kind for output in shown for kind in output["data"]}
    assert {"text/html", "application/vnd.plotly.v1+json"} <= kinds
    text = SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    assert str(ROOT) not in text


@pytest.mark.slow
def test_the_tour_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(SCRIPT))
    assert capsys.readouterr().out == ""
    assert len(found["figure"].data) == 3
    assert found["compared"].mape == pytest.approx(0.2, abs=0.02)
    assert set(found["compared"].causes["cause"]) == {"step"}
    assert found["mine"].converged
    assert found["after"].output_throughput < found["before"].output_throughput
    assert found["plan"].fleets["num_gpus"].iloc[0] >= 1
    assert "did you mean humaneval?" in found["mistake"]
    shown = "".join(json.dumps(c.get("outputs", ""), ensure_ascii=False) for c in NOTEBOOK["cells"])
    assert repr(found["result"])[1:-1] in shown, "run `make docs`"
