"""The curves of trainings in other processes in a real JupyterLab: they grow while the cell runs, and one stays."""

import nbformat
import pytest
from jupyterlab import run_notebook, served
from test_experiment import tokens, write_folder

pytestmark = pytest.mark.browser

CELL = """
from pathlib import Path
from helpers import experiment, results
from helpers.config import TrainingConfig
small = {{"epochs": 200, "batch_size": 16, "fusion_dim": 8, "num_heads": 1, "seeds": [0], "workers": 1}}
cfg = TrainingConfig(out_dir={out!r}, models="constant", **small)
found = results.run_table(experiment.TrainingData(Path({bank!r}), None, "small"), cfg)
"""
PICTURES = ".jp-RenderedImage img"
COLLECT = f"""
window.pictures = new Set();
setInterval(() => document.querySelectorAll("{PICTURES}").forEach(picture => window.pictures.add(picture.src)), 100);
"""


def test_curves_grow_in_the_notebook_while_workers_train(page, tmp_path):
    write_folder(tmp_path / "bank", tokens())
    (tmp_path / "notebooks").mkdir()
    cell = nbformat.v4.new_code_cell(CELL.format(out=str(tmp_path / "run"), bank=str(tmp_path / "bank")))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "live.ipynb")
    page.page.add_init_script(COLLECT)
    page.page.set_default_timeout(300_000)
    with served(tmp_path / "notebooks", tmp_path / "lab") as address:
        assert run_notebook(page.page, address("live.ipynb"))
        assert page.page.locator(PICTURES).count() == 1
        assert page.page.evaluate("() => window.pictures.size") > 2
    assert not page.outside
