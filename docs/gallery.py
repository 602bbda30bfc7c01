"""The gallery of examples, made from the examples at every build: a card and a section for each file of examples/.

Title and text are the file's docstring, without which the build fails; the picture is docs/figures/examples/<name>.png
(pictures.py draws these) or, of those that learn, the figure of the page on training. A new file is there by itself.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
PAGE, PLACE = "examples", "% gallery"  # the page, and its line that the gallery replaces
GROUPS = {"In reading order": r"\d", "Learning": "train_", "In meshcat": "meshcat_", "More": ""}
FIGURES = {
    "train_arm": "arm",
    "train_cart_pole_swing_up": "swing_up",
    "train_constraints": "constraints",
    "train_expert_recovery": "recovery",
    "train_identification": "identification",
    "train_quadrotor": "reinforcement",
    "train_quadruped": "quadruped_pushes",
}


class Example(NamedTuple):
    path: Path
    title: str
    text: str
    picture: str | None  # from docs/

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def label(self) -> str:
        return "example-" + self.name.replace("_", "-")


def read(path: Path) -> Example:
    """Raises ValueError without a docstring."""
    title, _, text = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")
    if not title:
        raise ValueError(f"{path} has no docstring, which the gallery of examples is made from")
    candidates = f"figures/examples/{path.stem}.png", f"figures/{FIGURES.get(path.stem)}.png"
    picture = next((name for name in candidates if (DOCS / name).exists()), None)
    return Example(path, title.rstrip("."), text.strip(), picture)


def groups(folder: Path = EXAMPLES) -> dict[str, list[Example]]:
    """The examples by heading, and last the modules that they share."""
    files = {path.stem: path for path in sorted(folder.glob("*.py"))}
    code = "\n".join(path.read_text() for path in files.values())
    imported = set(re.findall(r"^(?:from|import) (\w+)", code, re.M))
    found: dict[str, list[Example]] = {}
    for name, path in files.items():
        heading = next(heading for heading, start in GROUPS.items() if re.match(start, name))
        found.setdefault("What they share" if name in imported else heading, []).append(read(path))
    return {heading: found[heading] for heading in (*GROUPS, "What they share") if heading in found}


def card(example: Example) -> str:
    picture = f":img-top: {example.picture}\n" if example.picture else ""
    return f":::{{grid-item-card}} {example.title}\n:link: {example.label}\n:link-type: ref\n{picture}:::\n"


def section(example: Example) -> str:
    # Commands stand alone on their lines, which Markdown would join.
    text = re.sub(r"^(python .*)$", r"\n    \1\n", example.text, flags=re.M)
    code = f"```{{literalinclude}} ../examples/{example.path.name}\n:language: python\n```"
    heading = f"({example.label})=\n### `{example.path.name}`\n\n**{example.title}.**"
    return f"{heading}\n\n{text}\n\n:::{{dropdown}} Code\n{code}\n:::\n"


def markdown(folder: Path = EXAMPLES) -> str:
    parts = []
    for heading, examples in groups(folder).items():
        cards = "\n".join(map(card, examples))
        parts.append(f"## {heading}\n\n::::{{grid}} 1 2 2 3\n:gutter: 2\n\n{cards}::::\n")
        parts += map(section, examples)
    return "\n".join(parts)


def fill(app: Any, page: str, source: list[str]) -> None:
    if page == PAGE:
        for path in EXAMPLES.glob("*.py"):
            app.env.note_dependency(str(path))
        source[0] = source[0].replace(PLACE, markdown())


def outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    return [PAGE]  # a new file changes no old one


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", fill)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True}
