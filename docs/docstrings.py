"""Docstrings are plain text made to be read in an editor; this makes reStructuredText of them for the reference."""

from __future__ import annotations

import re
from typing import Any

# "name, other (shape) [unit]: what it is", continued by four spaces.
ARGUMENT = re.compile(r"(?!Source|Parameters)([\w*]+(?:, [\w*]+)*)((?: \([^)]*\)| \[[^\]]*\])*): (?=\S)")
SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example|Note)s?:$")


def escaped(line: str) -> str:
    """Outside of backticks, |x| is an absolute value, x* a product and x_ a name; code in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(
        part if part.startswith("`") else re.sub(r"[*_](?!\w)|(?<!\w)\*|\|", r"\\\g<0>", part) for part in parts
    )


def restructured(lines: list[str]) -> list[str]:
    """Formulas (indented after a blank line) become literal blocks, descriptions of arguments a list."""
    out: list[str] = []
    literal = listed = section = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        after_blank = not out or not out[-1].strip()
        if not line.strip():
            out.append("")
            listed = False
            continue
        if indent == 0:
            literal, section = False, bool(SECTION.match(line))
        elif after_blank and not section:
            literal = True
            if out:
                out += ["::", ""]
        if literal:
            out.append(line)
            continue
        named = ARGUMENT.match(line)
        if named and indent == 0:
            if not listed and not after_blank:
                out.append("")
            listed = True
            names, about = named.groups()
            out.append(f"- **{escaped(names)}**{escaped(about)}: {escaped(line[named.end() :])}")
        elif listed:
            out.append("  " + escaped(line.strip()))
        else:
            out.append(escaped(line))
    return out


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    # Those of other packages that a class inherits are reStructuredText or Markdown already.
    lines[:] = restructured(lines)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
