"""Rows of results as cells and sentences of pages."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

import report
from report import written

Row = dict[str, str]


def read(name: str) -> list[Row]:
    return report.read_csv(report.RESULTS / f"{name}.csv")


def number(row: Row, name: str) -> float:
    return float(row[name] or "nan")


def one(rows: Iterable[Row], **values: object) -> Row:
    """The only row with these values."""
    (row,) = [row for row in rows if all(row[name] == str(value) for name, value in values.items())]
    return row


def power(value: float, digits: int = 0) -> str:
    """As 2e-9."""
    return re.sub(r"e([-+])0*", r"e\1", f"{value:.{digits}e}")


def passes(row: Row) -> str:
    return f"{written(number(row, 'forward_ms'))} + {written(number(row, 'backward_ms'))}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heading, *lines = ("|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in (headings, *rows))
    return "\n".join([heading, "|" + "---|" * len(headings), *lines])


def paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def seeds(row: Row) -> list[float]:
    return [float(text) for heading, text in row.items() if heading.startswith("seed ") and text not in ("", "nan")]
