"""Documents name files, functions and figures that exist, and sources keep the house rules."""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import tomllib
from pathlib import Path

import pytest

import pyoptk
from pyoptk.optim import like

ROOT = Path(__file__).parents[1]
DOCS = ["README.md", "CONTRIBUTING.md", "csrc/README.md", "docs/decisions.md", "docs/mpi.md"]
DOCS += ["docs/semantics.md", "docs/torch.md"]
DOCS += ["docs/index.md", "docs/coming-from.md", "docs/choosing.md", "docs/trouble.md"]
DOCS += ["docs/releasing.md", "docs/testing.md", "docs/cores.md"]
MARKDOWN = [*DOCS, "CHANGELOG.md", "docs/performance.md", "pyoptk/demo/README.md"]
FOLDERS = ("csrc", "pyoptk", "tests", "bench", "docs", ".ci")
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
)
C = [p for p in FILES if p.suffix in (".c", ".h")]
SOURCES = [p for p in FILES if p.suffix in (".c", ".h", ".py", ".pyx", ".pxd", ".pxi", ".pyi")]
OPTIMIZERS = [
    name
    for name in pyoptk.__all__
    if inspect.isclass(found := getattr(pyoptk, name))
    and issubclass(found, pyoptk.Optimizer)
    and found is not pyoptk.Optimizer
]
LAYERS = [*pyoptk.rnn.__all__, "minGRU", "minLSTM"]


def text_of(document):
    return (ROOT / document).read_text()


def code_in(text):
    """The `code` of a text, without ```blocks```."""
    return re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


def blocks_in(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def relative(path):
    return str(path.relative_to(ROOT))


# ---- what documents name -------------------------------------------------------------------------


def exists(name, document):
    """Whether there is such a file: from the root, beside the document, or by its name alone."""
    near = [ROOT, (ROOT / document).parent, ROOT / "csrc", ROOT / "pyoptk"]
    if any((folder / name).exists() for folder in near):
        return True
    return "/" not in name and any(path.name == name for path in FILES)


@pytest.mark.parametrize("document", DOCS)
def test_every_file_that_a_document_names_exists(document):
    suffixes = "md|py|c|h|pyx|pxd|pxi|pyi|toml|txt|cmake"
    is_file = re.compile(
        rf"[\w.][\w./-]*(/|\.({suffixes}))|(csrc|pyoptk|tests|bench|docs)/[\w./-]+"
    )
    named = [code for code in code_in(text_of(document)) if is_file.fullmatch(code)]
    assert [name for name in named if not exists(name, document)] == []


def test_file_names_are_found_at_all():
    assert exists("loop.h", "README.md")
    assert exists("kernels/loop.h", "csrc/README.md")
    assert not exists("gone.h", "README.md")


@pytest.mark.parametrize("document", MARKDOWN)
def test_relative_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(document)):
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"\W+", "-", h.lower()) for h in headings], target


@pytest.mark.parametrize("document", DOCS)
def test_public_names_in_a_document_exist(document):
    for name in re.findall(r"`pyoptk(?!\.h`)((?:\.[A-Za-z_]\w*)+)[`(]", text_of(document)):
        needed = name.split(".")[1]
        if needed in ("torch", "thinc") and not importlib.util.find_spec(needed):
            continue  # parts for a library that is not here
        found = pyoptk
        for part in name[1:].split("."):
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
    for name, member in re.findall(r"`(\w+)\.([a-z_]\w*)[`(]", text_of(document)):
        if name in pyoptk.__all__:
            assert hasattr(getattr(pyoptk, name), member), f"{name}.{member}"


def test_names_of_c_in_documents_exist():
    sources = " ".join(path.read_text() for path in [*C, ROOT / "CMakeLists.txt"])
    added = text_of("CHANGELOG.md").split("### Added")[1].split("\n### ")[0]  # old names are below
    for text in (added, *map(text_of, DOCS)):
        for name in re.findall(r"\b(?:pk|PK)_(?!\w+_f\d\d_)\w+", text):  # no tables of a dtype
            assert re.search(rf"\b{name}\b", sources), name


@pytest.mark.parametrize("name", [*OPTIMIZERS, *LAYERS])
def test_semantics_mentions_every_optimizer_and_layer_and_readme_every_layer(name):
    for document in ["docs/semantics.md", *(["README.md"] if name in LAYERS else [])]:
        assert re.search(rf"\b{name}\b", text_of(document)), document


def test_the_optimizers_that_readme_lists_exist():
    (listed,) = re.findall(
        r"^- Optimizers: (.*?)[.:]", text_of("README.md"), re.DOTALL | re.MULTILINE
    )
    assert {"SGD", "AdamW"} <= set(code_in(listed)) <= set(OPTIMIZERS)


def test_keywords_of_semantics_are_those_of_a_class_or_a_method():
    callables = [getattr(pyoptk, name) for name in [*OPTIMIZERS, *LAYERS]]
    callables += [pyoptk.LSTM.forward, pyoptk.LSTM.backward, pyoptk.kernels.adam]
    known = {name for each in callables for name in inspect.signature(each).parameters}
    used = {
        m for code in code_in(text_of("docs/semantics.md")) for m in re.findall(r"^(\w+)=", code)
    }
    assert len(used) > 8
    # of Apex, MXNet and Keras
    assert used - known == {"adam_w_mode", "lazy_update", "learning_rate"}


# ---- README --------------------------------------------------------------------------------------


def test_readme_is_short_and_begins_with_two_commands():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 70
    assert len(blocks_in(text, "sh")[0].splitlines()) == 2  # .ci/run runs them


def test_the_code_of_readme_runs():
    (code,) = blocks_in(text_of("README.md"), "python")
    assert len(code.splitlines()) == 6  # import and five lines
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102


# ---- CONTRIBUTING --------------------------------------------------------------------------------


def commands():
    """Every command of the table of tasks, or the words that stand for one that goes on with ..."""
    rows = re.findall(r"^\| [^|]+ \| (.*`.*) \|$", text_of("CONTRIBUTING.md"), re.MULTILINE)
    return [code for row in rows for code in code_in(row)]


def test_the_table_of_tasks_is_found():
    assert len(commands()) > 12


@pytest.mark.parametrize("command", commands())
def test_commands_in_contributing_run_files_and_modules_that_exist(command):
    build = text_of("CMakeLists.txt")
    options = tomllib.loads(text_of("pyproject.toml"))
    for module in re.findall(r"-m ([\w.]+)|^(bench\.\w+)$", command):
        path = ROOT / "".join(module).replace(".", "/")
        local = path.with_suffix(".py").exists() or path.is_dir()
        assert local or importlib.util.find_spec("".join(module)), command
    for path in re.findall(r"(?<![\w-])(?:tests|bench|docs|\.ci)/[\w./]+", command):
        assert (ROOT / path).exists(), command
    for option in re.findall(r"(?:define\.|-D)(PYOPTK_\w+)", command):
        assert re.search(rf"\b{option}\b", build), command
    for group in re.findall(r"--group (\w+)", command):
        assert group in options["dependency-groups"]


def test_ci_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


# ---- csrc/README ---------------------------------------------------------------------------------


def test_csrc_readme_lists_the_instruction_sets_of_the_build():
    sets = re.findall(r"^pk_add_set\((\w+) (\d+)", text_of("CMakeLists.txt"), re.MULTILINE)
    rows = re.findall(
        r"^\| (\w+) \|.*PK_VECTOR_BYTES=(\d+)", text_of("csrc/README.md"), re.MULTILINE
    )
    assert sorted(rows) == sorted(sets)
    assert {name for name, _ in sets} >= set(pyoptk.isas())


def test_csrc_readme_lists_every_file_of_the_c_side():
    words = set(re.findall(r"[\w.]+\.[ch]\b", text_of("csrc/README.md")))
    files = {path.name for path in C if "csrc" in path.parts}
    assert files - words == set()


def test_the_way_of_a_call_names_functions_of_its_files():
    part = text_of("csrc/README.md").split("## The way of a call")[1].split("\n## ")[0]
    stops = re.findall(r"^    (\S.*?)  +(\S+\.\w+) ", part, re.MULTILINE)
    assert len(stops) > 10
    for functions, file in stops:
        folder = ROOT if file.startswith("pyoptk/") else ROOT / "csrc"
        text = (folder / file).read_text()
        for name in functions.split(", "):
            assert re.search(rf"\b{re.sub(r'.*[.]|[(].*', '', name)}\(", text), (name, file)


def glossary():
    part = text_of("csrc/README.md").split("## Glossary")[1].split("\n## ")[0]
    return re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE)[2:]


def test_every_word_of_the_glossary_is_one_that_the_sources_use():
    sources = " ".join(p.read_text() for p in SOURCES if "tests" not in p.parts)
    words = [word for cell, _ in glossary() for word in cell.replace("`", "").split(", ")]
    assert len(glossary()) >= 25
    assert words == sorted(words, key=str.lower)
    assert [word for word in words if not re.search(rf"\b{word}", sources, re.IGNORECASE)] == []


# ---- docs/semantics ------------------------------------------------------------------------------


def rows_below(heading):
    """The cells of the table whose header row begins so, as a list of dicts by column."""
    text = text_of("docs/semantics.md")
    lines = text[text.index(heading) :].split("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_table_of_like_is_that_of_the_code():
    shown = {}
    for row in rows_below("| `like` |"):
        names = row.pop("`like`").split(", ")
        here = {library.strip('`"') for library, cell in row.items() if cell}
        shown |= dict.fromkeys(names, here)
    assert shown == {name: set(settings) for name, settings in like.LIKE.items()}


def test_the_table_of_defaults_is_that_of_the_code():
    for row in rows_below("| | default, as in PyTorch | Keras"):
        *names, last = row[""].split(", ")
        words = [*names, last]
        classes = [word for word in " ".join(words).split() if word in OPTIMIZERS]
        hypers = [word for word in " ".join(words).split() if word not in OPTIMIZERS]
        for name in classes:
            signature = inspect.signature(getattr(pyoptk, name)).parameters
            defaults = {hyper: signature[hyper].default for hyper in hypers}
            for column, library in (
                ("default, as in PyTorch", "torch"),
                ("Keras", "keras"),
                ("Optax", "optax"),
            ):
                if not row[column]:
                    continue  # a library without it
                theirs = defaults | like.LIKE.get(name, {}).get(library, {})
                for hyper, cell in zip(hypers, row[column].split(", "), strict=True):
                    if cell != "none":
                        assert float(cell.split()[0]) == theirs[hyper], (name, library, hyper)


# ---- figures -------------------------------------------------------------------------------------

# document, what it says, what the C sources say
FIGURES = [
    ("docs/decisions.md", "48 rows of one panel", r"\bROW_BLOCK = 48\b"),
    ("docs/decisions.md", "exceed 1 MiB", r"\bPK_L2_SHARE = 1 << 20\b"),
    ("docs/decisions.md", "or 1.5 MiB where L2 has 2", r">= 2 \* PK_L2_SHARE \? 3 \* PK_L2_"),
    ("docs/decisions.md", "some 512 rows", r"\+ 512 / \("),
    ("docs/decisions.md", "fewer than 32 rows in all", r"\bROWS_WORTH_PACKING = 32\b"),
    (
        "docs/decisions.md",
        "6 x 4 vectors with 32 registers, 3 x 4 with 16",
        r"_ROWS 6\n#else\n#define \w+_ROWS 3\n",
    ),
    ("docs/decisions.md", "The counts of 512 tensors", r"\bCAUTIOUS_AT_ONCE = 512\b"),
    ("docs/decisions.md", "An element uses 16 bits", r"\bUINT16_MAX \+ 1\b"),
]


@pytest.mark.parametrize(
    ("document", "said", "meant"), FIGURES, ids=[said for _, said, _ in FIGURES]
)
def test_figures_of_the_documents_are_those_of_the_code(document, said, meant):
    assert said in text_of(document).replace("\n", " ")
    assert any(re.search(meant, path.read_text()) for path in C)


# ---- house rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", C, ids=relative)
def test_lines_of_c_have_at_most_100_columns(path):
    lines = path.read_text().splitlines()
    assert [f"{i}: {line}" for i, line in enumerate(lines, 1) if len(line) > 100] == []


def test_files_have_at_most_400_lines_and_cmake_160():
    long = [relative(p) for p in SOURCES if len(p.read_text().splitlines()) > 400]
    assert long == []
    assert len(text_of("CMakeLists.txt").splitlines()) <= 160


def functions_of(path):
    """(name, lines without the docstring) of each function of a Python or C file."""
    text = path.read_text()
    if path.suffix == ".py":
        nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        begins = [n.body[0].end_lineno if ast.get_docstring(n) else n.lineno for n in nodes]
        return [(n.name, n.end_lineno - begin) for n, begin in zip(nodes, begins, strict=True)]
    bodies = re.findall(
        r"^(\w[^\n;#]*\b(\w+)\((?:[^;{}]|\n)*?\n\{\n.*?^\})", text, re.DOTALL | re.MULTILINE
    )
    return [(name, len(body.splitlines())) for body, name in bodies]


def test_functions_have_at_most_60_lines():
    functions = [
        (relative(p), *f)
        for p in SOURCES
        if p.suffix in (".py", ".c", ".h")
        for f in functions_of(p)
    ]
    assert len(functions) > 1000
    assert [f for f in functions if f[2] > 60] == []
