"""The API reference: docstrings, and the switches of the optimizers."""

import inspect
import re
from typing import Any

import names
import numpy as np
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.parsing import nested_parse_to_nodes

import pyoptk
from pyoptk._optim import AT_MOST, NEEDS, ROWS
from pyoptk.optim import like


class Name(SphinxRole):
    """`text` of a docstring: a link, where it is a name of the library, else only code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        code = nodes.literal(self.text, self.text, classes=["xref"])
        target = self.text.removesuffix("()")
        if not target.replace(".", "").isidentifier():
            return [nodes.literal(self.text, self.text)], []
        context = self.env.ref_context
        link = addnodes.pending_xref(
            "", code, refdomain="py", reftype="obj", reftarget=target, refdoc=self.env.docname,
            refexplicit=False, **{"py:module": context.get("py:module", "pyoptk")},
        )  # fmt: skip
        link["py:class"], link["of_docstring"] = context.get("py:class"), True
        return [link], []


def not_a_name(app: Sphinx, env: object, node: nodes.Element, inner: nodes.Node) -> object:
    """What the default role names is code, if there is nothing of that name."""
    return inner if node.get("of_docstring") else None


def options_of(module: str, name: str) -> tuple[str, list[str]]:
    """The directive of autodoc for a name, and its options."""
    found = getattr(__import__(module, fromlist=[name]), name)
    if not inspect.isclass(found):
        return "autofunction", []
    layer = hasattr(found, "forward") and module == "pyoptk"
    return "autoclass", [":members:", *([":inherited-members: object"] if layer else [])]


class Names(SphinxDirective):
    """`names` PAGE: everything that names.py has on that page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines: list[str] = []
        for module, name in names.shown(self.arguments[0]):
            directive, options = options_of(module, name)
            lines += [f".. {directive}:: {module}.{name}", *(f"   {o}" for o in options), ""]
            found = getattr(__import__(module, fromlist=[name]), name)
            if getattr(found, "_kernel", None) in ROWS:
                lines += ["", f"   .. switches:: {name}", ""]
        return parse(self, lines)


def parse(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """Nodes of lines in reStructuredText, whatever the page is written in."""
    page = ["```{eval-rst}", *lines, "```"]
    return nested_parse_to_nodes(directive.state, "\n".join(page))


def shown_default(value: object) -> str:
    return f"`{value:g}`" if isinstance(value, float) else f"`{value!r}`"


def expected(found: type, name: str) -> str:
    """What the class says of a value that cannot be."""
    try:
        found(np.zeros(1), **{name: np.nan})
    except (TypeError, ValueError) as error:
        return re.fullmatch(r".*?expected (.*), got .*", str(error), re.DOTALL)[1]
    raise AssertionError(f"{found.__name__}: {name} may be NaN")


class Switches(SphinxDirective):
    """`switches` CLASS: what the row of an optimizer says, and the defaults of the class."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        found = getattr(pyoptk, self.arguments[0])
        row, defaults = ROWS[found._kernel], inspect.signature(found).parameters
        own = ["lr", *row.fields, *row.starts, "weight_decay", "decoupled"]
        rows = [
            [f"`{name}`", shown_default(defaults[name].default), expected(found, name)]
            for name in own
        ]
        words = states_in_words(row) + rules_in_words(row) + abilities_in_words(row)
        return [
            table([["argument", "default", "may be"], *rows]),
            nodes.paragraph("", "", *inline(words)),
        ]


class Like(SphinxDirective):
    """`like`: what `Optimizer.like` sets, a row for each optimizer and library."""

    def run(self) -> list[nodes.Node]:
        rows = [["optimizer", "library", "settings"]]
        for name, libraries in like.LIKE.items():
            for library, settings in libraries.items():
                words = ", ".join(f"`{key}={value!r}`" for key, value in settings.items())
                if words:
                    rows.append([f"`{name}`", f'`"{library}"`', words])
        return [table(rows)]


def states_in_words(row: Any) -> str:
    if not row.states:
        return "It keeps no state."
    shown = [
        f"`{name}`" + (f" (with `{needed_by}`)" if needed_by else "")
        for name, needed_by, _ in row.states
    ]
    return f"States, each as large as the parameters: {', '.join(shown)}."


def rules_in_words(row: Any) -> str:
    words = {NEEDS: "needs", AT_MOST: "is at most"}
    return "".join(
        f" `{field}` {words.get(relation, 'excludes')} `{other}`."
        for field, relation, other in row.rules
    )


def abilities_in_words(row: Any) -> str:
    can = [("`cautious` updates", row.cautious), ("`SparseRows`", row.sparse_rows)]
    takes, not_ = ([what for what, has in can if has is which] for which in (True, False))
    return "".join(
        f" {verb} {' and '.join(what)}."
        for verb, what in (("It takes", takes), ("It refuses", not_))
        if what
    )


def table(rows: list[list[str]]) -> nodes.table:
    """The first row is the head."""
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    made = [
        nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *inline(cell))) for cell in row))
        for row in rows
    ]
    group += [nodes.thead("", made[0]), nodes.tbody("", *made[1:])]
    return nodes.table("", group)


def inline(text: str) -> list[nodes.Node]:
    """`code` in a text as code."""
    parts = text.split("`")
    kinds = (nodes.Text, lambda part: nodes.literal(part, part))
    return [kinds[i % 2](part) for i, part in enumerate(parts) if part]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("names", Names)
    app.add_directive("switches", Switches)
    app.add_directive("like", Like)
    app.add_role("name", Name())
    app.connect("missing-reference", not_a_name)
    return {"parallel_read_safe": True}
