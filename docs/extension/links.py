"""Links between Markdown files that lead somewhere on GitHub and on the site.

In the files links are relative to the file, as GitHub wants them.  On the site a link to a file
that is a page here leads to the page, one to another file of the repository to a copy of it.  A
page with a line `<!-- the file ../X.md -->` is that file, whatever else it says on GitHub.
"""

import os
import re
from pathlib import Path

import header
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
_FILE = re.compile(r"^<!-- the file (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]\[]*)\]\((?!\w+:)([^)#\s]*)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`(?!\]))", re.DOTALL | re.MULTILINE)
# What has another page in its place.
INSTEAD = {"pyoptk/reference": "api/reference.md", "README.md": "index.md"}


def pages() -> dict[Path, Path]:
    """The page that shows each Markdown file of the repository."""
    found = {}
    for page in DOCS.rglob("*.md"):
        stands_for = _FILE.search(page.read_text())
        found[page] = page
        if stands_for:
            found[(page.parent / stands_for[1]).resolve()] = page
    return found


def site_link(target: str, source: Path, page: Path, known: dict[Path, Path]) -> str:
    """A link of the file `source` that `page` shows, from the page."""
    file = (source.parent / target).resolve()
    if other := INSTEAD.get(os.path.relpath(file, DOCS.parent)):
        file = DOCS / other
    return os.path.relpath(known.get(file, file), page.parent)


def rewrite(text: str, source: Path, page: Path) -> str:
    """The text of `source` with links that are right on `page`."""
    known = pages()

    def link(match: re.Match[str]) -> str:
        image, words, target, anchor = match.groups()
        if not target:
            return match[0]
        where = site_link(target, source, page, known)
        if image or where.endswith(".md"):
            return f"{image}[{words}]({where}{anchor or ''})"
        return f"{{download}}`{words.strip('`')} <{where}>`"

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def on_read(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if page.suffix != ".md":
        return
    file = page
    if stands_for := _FILE.search(source[0]):
        file = (page.parent / stands_for[1]).resolve()
        app.env.note_dependency(str(file))
        source[0] = file.read_text()
        if file.suffix == ".h":
            source[0] = header.markdown(file.name, source[0])
            return
    source[0] = rewrite(source[0], file, page)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", on_read)
    return {"parallel_read_safe": True}
