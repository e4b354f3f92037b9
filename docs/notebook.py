"""Run the tour of the Python API as a notebook: ``make docs``.

Not installed. ``tests/api/test_tour.py`` compares the notebook's cells with the script's.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOUR = Path(__file__).parent / "tutorial/python_tour.py"
CELL = re.compile(r"^# %%(?P<text> \[markdown\])?\n", re.MULTILINE)
RENDERER = "plotly_mimetype+notebook_connected"  # plotly.js stays where it is
MOST_SECONDS = 600


def cells(script: str) -> Iterator[tuple[str, str]]:
    """Kind and source of every cell of a script; ``# %%`` begins one."""
    _, *parts = CELL.split(script)
    for marked, source in zip(parts[::2], parts[1::2], strict=True):
        source = source.strip("\n")
        if marked:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        yield "markdown" if marked else "code", source


def notebook(script: str) -> Any:
    """The notebook of a script, not run."""
    from nbformat import v4

    made = v4.new_notebook()
    made.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    made.metadata["language_info"] = {"name": "python"}
    for number, (kind, source) in enumerate(cells(script)):
        new = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
        made.cells.append(new(source, id=f"cell-{number}"))
    return made


def run(made: Any) -> None:
    """Fill in what the cells show; when they ran is left out, so that reruns differ in no more."""
    import os

    from nbclient import NotebookClient

    os.environ["PLOTLY_RENDERER"] = RENDERER
    client = NotebookClient(made, timeout=MOST_SECONDS, record_timing=False)
    client.execute(cwd=str(TOUR.parent))
    for cell in made.cells:
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
    made.metadata["language_info"] = {"name": "python"}


def main() -> None:
    """Write the notebook beside the script."""
    import nbformat

    made = notebook(TOUR.read_text(encoding="utf-8"))
    run(made)
    nbformat.write(made, TOUR.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
