"""Who is a front end: what shows widgets names the cell in its request, what only executes does not."""

from types import SimpleNamespace

import nbformat
import papermill
import pytest

from helpers import explorer
from helpers.files import ROOT

ASKS = "from helpers.explorer import in_front_end\nprint(in_front_end())"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_papermill_is_no_front_end_even_inside_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/07.ipynb")  # as `!make test` in a cell has it
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ASKS)])
    nbformat.write(notebook, tmp_path / "asks.ipynb")
    done = papermill.execute_notebook(
        tmp_path / "asks.ipynb", tmp_path / "done.ipynb", kernel_name="python3", progress_bar=False
    )
    assert done.cells[0].outputs[0].text == "False\n"


def test_a_request_that_names_its_cell_is_from_a_front_end(monkeypatch):
    asked = {"shell": {"metadata": {"cellId": "07-05", "trusted": True}}}
    kernel = SimpleNamespace(get_parent=asked.get)
    assert not explorer.in_front_end()  # a script
    monkeypatch.setattr(explorer, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert explorer.in_front_end()
    asked["shell"] = {"metadata": {}}  # nbval
    assert not explorer.in_front_end()
