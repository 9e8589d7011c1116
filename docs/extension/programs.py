"""Programs on the site: their text, what they print, and the pictures that they make.

    ```{script} ../../examples/forecast.py
    :alt: what the picture shows
    ```

shows all of it, with `:only-pictures:` no more than the pictures.

A program runs in a folder of its own, in a process of its own, while the site is built.  A file of
the same name in docs/figures may draw what the program has found: `draw(found)` returns a figure
of matplotlib, which is drawn for the light and for the dark.  Results are kept in build/programs
until the program, its drawing or pyoptk changes.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
KEPT = ROOT / "build" / "programs"
RUNNER = Path(__file__).with_name("runner.py")
# How long something took depends on the machine that built the site: it is not shown.
TIMES = [
    (r"(?m)^(epoch .*\S) +seconds$", r"\1"),
    (r"(?m)^( +\d+ .*\S) +\d+\.\d\d( +best)?$", r"\1\2"),
    (r"(?m)^( +\.\.\. .*\S) +\.\.\.$", r"\1"),
    (r", [\d,]+ steps a second", ""),
]
log = logging.getLogger(__name__)


def library() -> bytes:
    """A digest of the sources of pyoptk."""
    found = hashlib.sha256()
    for folder in (ROOT / "pyoptk", ROOT / "csrc"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".pyx", ".c", ".h"):
                found.update(path.read_bytes())
    return found.digest()


def files_of(program: Path) -> list[Path]:
    """The program, and what draws it."""
    drawing = DOCS / "figures" / program.name
    both = [drawing, drawing.with_name("curves.py"), RUNNER] if drawing.exists() else [RUNNER]
    return [program, *both]


def key_of(program: Path, app: Sphinx) -> str:
    if not hasattr(app, "library_digest"):
        app.library_digest = library()
    found = hashlib.sha256(app.library_digest)
    for path in files_of(program):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def result_of(program: Path, app: Sphinx) -> Path:
    """The folder with what a program printed and drew, which is run if there is none yet."""
    folder = KEPT / f"{program.stem}-{key_of(program, app)}"
    if not folder.exists():
        for old in KEPT.glob(f"{program.stem}-*"):
            shutil.rmtree(old)
        began, part = time.perf_counter(), KEPT / f".{program.stem}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        environment = os.environ | {"MPLBACKEND": "agg", "PYTHONWARNINGS": "error"}
        run = subprocess.run(
            [sys.executable, str(RUNNER), str(program)], cwd=part, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if run.returncode:
            raise ExtensionError(f"{program} failed:\n{run.stderr}")
        (part / "printed.txt").write_text(run.stdout)
        part.rename(folder)
        log.info("%s: %.1f s", program.name, time.perf_counter() - began)
    return folder


class Script(SphinxDirective):
    """`script` FILE, a path from the page."""

    required_arguments = 1
    option_spec = {  # noqa: RUF012  (as docutils wants it)
        "alt": directives.unchanged_required,
        "only-pictures": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        _, path = self.env.relfn2path(self.arguments[0])
        program = Path(path).resolve()
        for file in files_of(program):
            self.env.note_dependency(str(file))
        folder = result_of(program, self.env.app)
        out: list[nodes.Node] = []
        if "only-pictures" not in self.options:
            out.append(self.code(program.read_text(), "python"))
            out += self.printed((folder / "printed.txt").read_text().rstrip())
        return out + self.pictures(folder)

    def printed(self, text: str) -> list[nodes.Node]:
        shown = text
        for pattern, instead in TIMES:
            shown = re.sub(pattern, instead, shown)
        words = "It prints:" if shown == text else "It prints, the times left out:"
        return [nodes.paragraph(text=words), self.code(shown, "text")] if text else []

    @staticmethod
    def code(text: str, language: str) -> nodes.Node:
        return nodes.literal_block(text, text, language=language)

    def pictures(self, folder: Path) -> list[nodes.Node]:
        made = sorted([*folder.glob("*.png"), *folder.glob("*.svg")])
        if made and "alt" not in self.options:
            raise self.error("a picture needs a text: the option alt")
        here = (DOCS / self.env.docname).parent
        out: list[nodes.Node] = []
        for picture in made:
            # Two classes of furo: the picture of a reader in the light, and of one in the dark.
            kind = {"light": ["only-light"], "dark": ["only-dark"]}.get(picture.stem.split("-")[-1])
            uri = os.path.relpath(picture, here)
            out.append(nodes.image(uri=uri, alt=self.options["alt"], classes=kind or ["on-white"]))
        return out


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("script", Script)
    return {"parallel_read_safe": False}
