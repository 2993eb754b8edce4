"""The notebooks run from top to bottom as they stand, on a tiny model, and show what they promise."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PAGES = {"scores.ipynb": 1, "own_method.ipynb": 2}
"""frames with a page of ours in the outputs"""


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_runs_and_shows_its_pages(name, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TU_NOTEBOOK_MODEL", str(tiny_model))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    made = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output["data"].get("text/html", "") for output in made if "data" in output]
    assert sum('<iframe srcdoc="' in html for html in shown) == PAGES[name]
    assert any("<table" in html and "iframe" not in html for html in shown)
    if name == "scores.ipynb":
        assert any("image/png" in output["data"] for output in made if "data" in output)


def test_a_page_in_a_frame_cannot_leave_it():
    from shared.notebook import framed

    html = framed('<p title="x">"quotes" & <script>alert(1)</script></p>')
    assert "<script>" not in html and html.count('"') == 8 and 'sandbox="allow-scripts"' in html
