"""The tables of the page on benchmarks, made at every build from the CSV files in benchmarks/results/.

Over each stands what the JSON file beside it says: the command that prints it, when, from which commit and where.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import report

PAGE, PLACE = "benchmarks", "% results"  # the page, and its line that the tables replace


def files() -> list[Path]:
    """Without what is not part of the repository."""
    return [path for path in sorted(report.RESULTS.glob("*.csv")) if path.stem != "qp_sets_all"]


def shown(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return text.replace("|", "\\|")
    return text if re.fullmatch(r"-?\d+", text) else report.written(number)


def table(rows: list[dict[str, str]]) -> str:
    headings = [name for name in rows[0] if any(row[name] for row in rows)]
    lines = [headings, ["---"] * len(headings), *([shown(row[name] or "") for name in headings] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def origins(sources: dict[str, dict[str, str]]) -> str:
    """What was run, once for all parts of a table that come from the same run."""
    parts: dict[str, list[str]] = {}
    for part, source in sources.items():
        note = f" ({source['note']})" if "note" in source else ""
        text = f"`{source['command']}`, {source['date']}, commit {source['commit']}{note}; {source['machine']}"
        parts.setdefault(f"{text}; {source['packages']}", []).append(part)
    return "\n".join(f"- {', '.join(names) + ': ' if any(names) else ''}{text}" for text, names in parts.items())


def markdown() -> str:
    parts: list[str] = []
    last = ""
    for path in files():
        sources = json.loads(path.with_suffix(".json").read_text())
        programs = {re.sub(r"^python benchmarks/(\w+\.py).*", r"\1", source["command"]) for source in sources.values()}
        (program,) = programs
        if program != last:
            doc = ast.get_docstring(ast.parse((report.HERE / program).read_text())) or ""
            parts.append(f"### `{program}`\n\n{doc.splitlines()[0]}")
            last = program
        rows = report.read_csv(path)
        inside = f"{origins(sources)}\n\n{table(rows)}"
        parts.append(f":::{{dropdown}} `{path.name}`, {len(rows)} rows\n{inside}\n:::")
    return "\n\n".join(parts)


def fill(app: Any, page: str, source: list[str]) -> None:
    if page == PAGE:
        for path in (*files(), *report.RESULTS.glob("*.json")):
            app.env.note_dependency(str(path))
        source[0] = source[0].replace(PLACE, markdown())


def outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    return [PAGE]  # a new file changes no old one


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", fill)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True}
