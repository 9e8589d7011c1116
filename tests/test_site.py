"""The site shows every public name, its code runs, and its links are right; needs no Sphinx."""

import importlib.util
import re
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

import pyoptk

DOCS = Path(__file__).parents[1] / "docs"
API = DOCS / "api"
HEADERS = sorted((DOCS.parent / "csrc" / "include").glob("*.h"))
PAGES = ["index", "coming-from", "choosing", "trouble"]  # those with code


@pytest.fixture(scope="module")
def extension():
    """The modules of docs/extension that need no Sphinx."""
    sys.path.insert(0, str(DOCS / "extension"))
    import header
    import names

    yield {"header": header, "names": names}
    sys.path.remove(str(DOCS / "extension"))
    for name in ("header", "names"):
        del sys.modules[name]


# ---- the reference -------------------------------------------------------------------------------


def test_every_public_name_is_in_the_reference(extension):
    names = extension["names"]
    shown = [pair for page in names.PAGES for pair in names.shown(page)]
    assert len(shown) == len(set(shown)) > 150
    wanted = {("pyoptk", name) for name in pyoptk.__all__ if name not in names.MODULES}
    for module in (*names.MODULES, "reference"):
        wanted |= {(f"pyoptk.{module}", n) for n in names.public(getattr(pyoptk, module))}
    wanted |= {("pyoptk.mpi", name) for name in listed_in_source("pyoptk/mpi/__init__.py")}
    assert set(shown) == wanted


def listed_in_source(path):
    """__all__ of a module that cannot be imported everywhere."""
    return re.findall(r'"(\w+)"', (DOCS.parent / path).read_text().split("__all__")[1])


def test_every_page_of_names_exists_and_is_listed(extension):
    index = (API / "index.md").read_text().splitlines()
    for page in extension["names"].PAGES:
        assert f"```{{names}} {page}" in (API / f"{page}.md").read_text()
        assert page in index


def test_every_header_is_a_page(extension):
    listed = (API / "index.md").read_text().splitlines()
    pages = {page.read_text().split()[3]: page.stem for page in API.glob("c*.md")}
    assert set(pages) == {f"../../csrc/include/{header.name}" for header in HEADERS}
    assert set(pages.values()) <= set(listed)


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: path.name)
def test_the_page_of_a_header_loses_no_name(path, extension):
    page = extension["header"].markdown(path.name, path.read_text())
    names = set(re.findall(r"\b(?:pk|PK)_\w+", path.read_text()))
    assert len(names) > 10
    assert names - set(re.findall(r"\b(?:pk|PK)_\w+", page)) == set()
    if path.name == "pyoptk.h":
        assert "    single: pk_num_threads (C)" in page.splitlines()


def test_files_of_a_release_name_this_version():
    root = DOCS.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (root / "CITATION.cff").read_text()
    recipe = (DOCS / "conda" / "recipe.yaml").read_text()
    assert f'  version: "{project["version"]}"' in recipe
    assert all(f"    - {need.replace('>', ' >')}\n" in recipe for need in project["dependencies"])


# ---- the code ------------------------------------------------------------------------------------


def rows_of(table):
    """The cells of a table as code; a line of it may be empty."""
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [[cell.strip().strip("|").strip().strip("`") for cell in row] for row in rows]


def parts_of(page):
    """(language or first column, code) of the blocks and tables of a page, in their order."""
    pattern = r"^```python\n(.*?)^```|^(\| \S+ \| pyoptk \|\n(?:\|[^\n]*\n)+)"
    for block, table in re.findall(pattern, page, re.DOTALL | re.MULTILINE):
        if block:
            yield "python", block
        for cells in rows_of(table):
            yield table.split()[1], cells


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, capsys):
    threads, names = pyoptk.get_num_threads(), {}
    parts = list(parts_of((DOCS / f"{page}.md").read_text()))
    assert parts
    for _, code in parts:
        ours = code if isinstance(code, str) else code[-1]
        exec(compile(ours, page, "exec"), names)  # noqa: S102
    pyoptk.set_num_threads(threads)
    if page == "trouble":
        assert "w" in names["message"]
        assert names["norm"] > 0
        assert names["over_time"].shape == (30,)


THEIRS = {  # what their lines find
    "PyTorch": "import torch; from torch import nn; x, rows, lengths = map(torch.tensor, "
    "(x, rows, lengths)); labels = torch.tensor(labels)",
    "Keras": "import keras",
    "Optax": "import optax",
    "scikit-learn": "from sklearn.neural_network import MLPClassifier",
}


@pytest.mark.parametrize("library", THEIRS)
def test_their_lines_run_as_well(library, capsys, monkeypatch):
    backends = [name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name)]
    monkeypatch.setenv("KERAS_BACKEND", (*backends, "none")[0])
    pytest.importorskip(THEIRS[library].split()[1].split(".")[0].rstrip(";"))
    warnings.simplefilter("ignore")  # of scikit-learn, for few epochs
    names, count = {}, 0
    for kind, code in parts_of((DOCS / "coming-from.md").read_text()):
        if kind == "python" and "rng = " in code:
            exec(code + THEIRS[library], names)  # noqa: S102
        elif kind == "python" and "grads = " in code:
            exec(code, names)  # noqa: S102
        elif kind == library:
            count += 1
            exec(code[0], names)  # noqa: S102
    assert count > 4


# ---- programs and pictures -----------------------------------------------------------------------


def scripts():
    """(page, file, options) of every program on the site."""
    for page in DOCS.rglob("*.md"):
        pattern = r"^```\{script\} (\S+)\n((?::.*\n)*)```"
        for file, options in re.findall(pattern, page.read_text(), re.MULTILINE):
            yield page, (page.parent / file).resolve(), options


def test_programs_exist_and_their_pictures_have_a_text():
    found = list(scripts())
    assert len(found) > 12
    for page, file, options in found:
        assert file.exists(), page
        (text,) = re.findall(r"^:alt: (.*)$", options, re.MULTILINE)
        assert len(text) > 30, page
    drawn = {path.name for path in (DOCS / "figures").glob("*.py")} - {"curves.py", "pytorch.py"}
    assert drawn <= {file.name for _, file, _ in found}


def test_every_example_is_a_tutorial():
    shown = {file.stem for _, file, _ in scripts() if file.parent.name == "examples"}
    examples = {path.stem for path in (DOCS.parent / "examples").glob("*.py")}
    assert examples - shown == {"several_machines", "pytorch"}  # which need MPI and PyTorch
    assert "several_machines.py" in (DOCS / "tutorials" / "machines.md").read_text()
    assert "pytorch.py" in (DOCS / "tutorials" / "pytorch.md").read_text()


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_pictures_have_a_text(document):
    assert [text for text in re.findall(r"!\[([^\]]*)\]\(", document.read_text()) if not text] == []


def test_numbers_of_the_pages_are_those_of_the_code():
    text = (DOCS / "trouble.md").read_text()
    assert "with a bias of 3 it is 0.95" in text
    assert round(float(1 / (1 + np.exp(-3.0))), 2) == 0.95
    sizes = {
        cell: sum(p.size for name, p in layer.params.items() if "weight" in name)
        for cell, layer in {
            "4H (I + H)": pyoptk.LSTM(3, 8),
            "3H (I + H)": pyoptk.GRU(3, 8),
            "H (I + H)": pyoptk.RNN(3, 8),
            "2H I": pyoptk.minGRU(3, 8),
            "3H I": pyoptk.minLSTM(3, 8),
        }.items()
    }
    assert list(sizes.values()) == [4 * 88, 3 * 88, 88, 48, 72]
    assert all(cell in (DOCS / "choosing.md").read_text() for cell in sizes)
