"""A C header as a page: its sections, and each comment above the code that it is about."""

import re

_SECTION = re.compile(r"/\* -+ (.*?) -+ \*/")
_PUBLIC = re.compile(r"\b(?:pk_[a-z0-9_]+|PK_[A-Z0-9_]+)\b")
_NAMED = [
    re.compile(r"^\} (pk_\w+);", re.MULTILINE),  # a struct or an enum
    re.compile(r"^#define (PK_\w+)", re.MULTILINE),
    re.compile(r"^[\w *]+?\b(pk_\w+)\(", re.MULTILINE),  # a function
]


def parts(text: str) -> list[tuple[str, str]]:
    """("section" or "comment" or "code", its text), in their order."""
    found: list[tuple[str, str]] = []
    for chunk in re.split(r"(^/\*.*?\*/\n)", text, flags=re.DOTALL | re.MULTILINE):
        if section := _SECTION.match(chunk):
            found.append(("section", section[1].strip()))
        elif chunk.startswith("/*"):
            lines = chunk.strip().removeprefix("/*").removesuffix("*/").splitlines()
            found.append(("comment", "\n".join(line.removeprefix(" *")[1:] for line in lines)))
        elif code := without_guards(chunk):
            found.append(("code", code))
    return found


def without_guards(code: str) -> str:
    """Declarations; nothing of what only the preprocessor is told."""
    guards = r"^#(?:ifndef|define) PYOPTK_\w*H\n|^#endif.*\n?|^#ifdef __cplusplus\n.*?^#endif\n"
    return re.sub(guards, "", code, flags=re.MULTILINE | re.DOTALL).strip("\n")


def prose(comment: str) -> str:
    """Paragraphs; what is indented, such as a formula, as it stands."""
    out: list[str] = []
    margin = min((len(s) for s in re.findall(r"^  +", comment, re.MULTILINE)), default=0)
    as_it_stands = False
    for line in comment.strip().splitlines():
        if line.startswith("  ") != as_it_stands and (line.strip() or not as_it_stands):
            as_it_stands = not as_it_stands
            out += ["", "```text"] if as_it_stands else ["```", ""]
        out.append(line[margin:] if as_it_stands else escaped(line))
    return "\n".join([*out, *(["```"] if as_it_stands else [])])


def escaped(line: str) -> str:
    """Names of the library as code; nothing else means anything in Markdown."""
    plain = re.sub(r"([*<>\[\]_|])", r"\\\1", line)
    return _PUBLIC.sub(lambda m: f"`{m[0]}`", plain.replace(r"\_", "_"))


def names_in(code: str) -> list[str]:
    return [name for pattern in _NAMED for name in pattern.findall(code)]


def markdown(name: str, text: str) -> str:
    """The page of the header `name`."""
    out = [f"# {name}", ""]
    for kind, content in parts(text):
        if kind == "section":
            out += [f"## {content[0].upper()}{content[1:]}", ""]
        elif kind == "comment":
            out += [prose(content), ""]
        else:
            if entries := [f"    single: {each} (C)" for each in names_in(content)]:
                out += ["```{eval-rst}", ".. index::", *entries, "```", ""]
            out += ["```c", content, "```", ""]
    return "\n".join(out)
