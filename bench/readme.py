"""README's table, from the tables of docs/performance.md: ``python -m bench.readme``.

bench/report.py calls it when it has written that page. No figure is typed; rows where a peer is
faster stay, in bold.
"""

import re
from pathlib import Path

from .pictures import PEERS
from .work import BRIEF

ROOT = Path(__file__).parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- table: python -m bench.readme -->", "<!-- end of table -->"
SECTION = "## Against other libraries, 1 thread"
HEADS = (
    "1 thread: how many times as long as pyoptk", "precision",
    "NumPy", "PyTorch", "the fastest other",
)  # fmt: skip
UNDER_TABLE = (
    "**Bold**: the other is faster. Medians of rounds in which all take turns, each library in its "
    "fastest way (with bfloat16: autocast, a whole module, or float32). "
    "[Performance](docs/performance.md) has versions, ranges and all other rows."
)


def cells_of(line):
    """The cells of a line of a table."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def section_of(page):
    """The part of the page about one thread."""
    return page.split(f"{SECTION}\n")[1].split("\n## ")[0]


def ratios(page):
    """Of each row of that section, by its label: how many times as long each contender takes."""
    found, columns = {}, []
    for line in section_of(page).splitlines():
        if line.startswith("| | "):
            columns = cells_of(line)
        elif line.startswith("| "):
            label, *cells = cells_of(line)
            told = zip(columns[1:], cells, strict=True)
            found[label] = {
                name: float(times[1])
                for name, cell in told
                if (times := re.match(r"\*{0,2}([\d.]+) \(", cell))
            }
    return found


def short(times):
    """How many times as long, in few digits; bold where that is less than 1."""
    told = f"{times:.{2 if times < 2 else 1 if times < 10 else 0}f}"
    return f"**{told}**" if times < 1 else told


def line_of(label, row):
    """The cells of a row: NumPy and PyTorch, each in its fastest way, and the fastest other."""
    of = {}
    for name, times in row.items():
        library = name.split(" ")[0]
        if library in PEERS:
            of[library] = min(times, of.get(library, times))
    others = {name: times for name, times in of.items() if name not in ("NumPy", "PyTorch")}
    other = min(others, key=others.__getitem__, default="")
    return [
        label.replace(", compute=bfloat16", ""),
        "bfloat16 products, float32 sums" if "bfloat16" in label else "float32",
        *(short(of[name]) if name in of else "" for name in ("NumPy", "PyTorch")),
        f"{short(others[other])} ({other})" if other else "",
    ]


def where_of(page):
    """The machine and the date."""
    return re.search(r" s\. (.*?), commit ", section_of(page))[1] + "."


def table(page):
    """The table, and what stands below it."""
    found = ratios(page)
    lines = [line_of(label, found[label]) for label in BRIEF if label in found]
    rows = [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in (HEADS, *lines)]
    rows.insert(1, "|---" * len(HEADS) + "|")
    return "\n".join(rows) + f"\n\n{where_of(page)} {UNDER_TABLE}"


def write(readme=None, page=None):
    """Put the table where README has the old one."""
    readme = readme or README
    before, rest = readme.read_text().split(BEGIN)
    made = table((page or PAGE).read_text())
    readme.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    write()
