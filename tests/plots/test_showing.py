"""Who shows a figure: pyplot, as with seaborn and ArviZ; a notebook, once; nobody, where there is no screen to show it on."""

import subprocess
import sys
import threading
import warnings

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from helpers import random_member
from nbclient import NotebookClient

from jaxgmm import plots
from jaxgmm.plots import canvas

PREPARE = """
import numpy as np, jaxgmm as jg
gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [4.0, 0.0]], [1.0, 1.0], "spherical")
x = np.asarray(gmm.means)
"""
CELLS = {
    "a panel at the end": "jg.plots.scatter(gmm, x)",
    "a figure at the end": "jg.plots.pairs(gmm, x)",
    "a figure of one panel": "jg.plots.components(gmm, x)",
    "a panel in the middle": "ax = jg.plots.scatter(gmm, x)\nax.set_title('mine')\nprint('text')",
    "pyplot goes on": "import matplotlib.pyplot as plt\njg.plots.scatter(gmm, x)\nplt.title('mine')\nplt.show()",
    "a panel of one's own": "_, ax = plt.subplots()\njg.plots.scatter(gmm, x, ax=ax)",
    "a figure from another cell": "figure",
    "a result": "gmm",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Of each cell, run in a fresh kernel without any magic."""
    cells = [PREPARE, *list(CELLS.values())[:-2], "figure = jg.plots.pairs(gmm, x)", *list(CELLS.values())[-2:]]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the machinery around the kernel
        path = str(tmp_path_factory.mktemp("notebook"))
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path}}).execute()
    found = [cell.outputs for cell in notebook.cells]
    return dict(zip(CELLS, [*found[1 : len(CELLS) - 1], *found[-2:]], strict=True))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cell", list(CELLS)[:-1])
def test_a_notebook_without_the_magic_shows_a_figure_once(cell, outputs):
    pictures = [output for output in outputs[cell] if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    assert not [output for output in outputs[cell] if output.output_type == "error"]


def test_a_notebook_shows_a_result_as_html(outputs):
    (output,) = outputs["a result"]
    assert "<svg" in output.data["text/html"]
    assert output.data["text/plain"].startswith("GMM: spherical, 2 components, 2 features")


def test_a_new_figure_is_the_current_one_of_pyplot():
    gmm = random_member("full", 2, 2)
    ax = plots.scatter(gmm, np.asarray(gmm.means))
    assert plt.gca() is ax
    other = plots.scatter(gmm, np.asarray(gmm.means))
    assert plt.gcf() is other.figure is not ax.figure
    assert plots.scatter(gmm, np.asarray(gmm.means), ax=ax) is ax
    assert plt.gcf() is other.figure
    plt.close(other.figure)
    assert plt.get_fignums() == [ax.figure.number]


def test_figures_for_files_are_nobodys(tmp_path):
    gmm = random_member("full", 2, 3)
    with warnings.catch_warnings(), canvas.off_screen():
        warnings.simplefilter("error")
        for _ in range(25):
            canvas.new_figure(1, 1)
        canvas.save(tmp_path, {"pairs": plots.pairs(gmm, np.asarray(gmm.means))})
    assert plt.get_fignums() == []
    assert (tmp_path / "pairs.png").stat().st_size > 1000


def test_figures_of_threads_are_nobodys():
    gmm, made = random_member("full", 2, 2), []
    thread = threading.Thread(target=lambda: made.append(plots.scatter(gmm, np.asarray(gmm.means))))
    thread.start()
    thread.join()
    assert len(made) == 1
    assert plt.get_fignums() == []


def test_plots_wait_for_pyplot_until_there_is_a_figure():
    code = "import sys, jaxgmm.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
