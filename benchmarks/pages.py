"""Writes the measured figures of README.md and docs/, tables and sentences, from the CSV files in results/.

They stand between <!-- NAME --> and <!-- /NAME -->, and a test sees that they are what this makes of the files: so
nothing stands there that no benchmark has printed. What printed a file, where and when, stands in the .json beside it.

    python benchmarks/pages.py            # rewrites the pages
    python benchmarks/pages.py --check    # says what differs
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import docs_figures
import experiments_figures
import readme_figures
import report

Blocks = dict[str, Callable[[], str]]
ROOT = report.HERE.parent
PAGES: dict[Path, Blocks] = {
    ROOT / "README.md": readme_figures.BLOCKS,
    ROOT / "docs" / "experiments.md": experiments_figures.BLOCKS,
    **{ROOT / "docs" / name: blocks for name, blocks in docs_figures.PAGES.items()},
}


def rewritten(text: str, blocks: Blocks) -> str:
    """Raises ValueError where a block is missing or unknown."""
    named = re.findall(r"^<!-- (\w+) -->$", text, re.M)
    if sorted(named) != sorted(blocks):
        raise ValueError(f"the page has the blocks {sorted(named)}, expected {sorted(blocks)}")
    for name, make in blocks.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{end.strip()} is missing")
        text = before + start + make() + "\n" + end + after
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if something differs")
    given = parser.parse_args()
    differs = False
    for page, blocks in PAGES.items():
        old = page.read_text()
        new = rewritten(old, blocks)
        differs |= old != new
        before, after = old.splitlines(), new.splitlines()
        for line in difflib.unified_diff(before, after, fromfile=page.name, tofile="from results", n=0, lineterm=""):
            print(line)
        if not given.check:
            page.write_text(new)
    return int(given.check and differs)


if __name__ == "__main__":
    sys.exit(main())
