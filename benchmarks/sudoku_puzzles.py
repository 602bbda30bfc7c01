"""4x4 Sudoku: all boards, all puzzles with one solution, and random ones of them.

There are 288 boards. A puzzle shows some cells of a board, and has one solution if no other board agrees with it there;
such a puzzle belongs to one board, so that the puzzles are the pairs of a board and a set of cells not contained in the
agreement of that board with any other: 13 579 680, of them 85 632 from which no clue can be spared. Renaming digits
maps boards to boards and keeps the sets: only the 12 boards with first row 1234 are looked at.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Digits = npt.NDArray[np.int64]

# Shares of puzzles with 4 to 8 clues in the data sets published with OptNet and QPLayer (10 000 each, counted).
CLUES = {4: 0.1348, 5: 0.5609, 6: 0.2817, 7: 0.0220, 8: 0.0006}


@cache
def boards() -> Digits:
    """(288, 16) all boards, digits 0 to 3; the first 12 have the first row 0123."""
    partial: list[tuple[tuple[int, ...], ...]] = [()]
    for i in range(4):
        partial = [
            (*board, row)
            for board in partial
            for row in itertools.permutations(range(4))
            if all(len({*column}) == i + 1 for column in zip(*board, row, strict=True))
            and (i % 2 == 0 or not {*board[-1][:2]} & {*row[:2]})
        ]
    return np.array(partial).reshape(-1, 16)


@cache
def solvable() -> npt.NDArray[np.bool_]:
    """(12, 65536) whether the cells of a set, bit i for cell i, tell one of the first 12 boards from all others."""
    every = boards()
    found = np.zeros((12, 1 << 16), dtype=bool)
    for k in range(12):
        agreement = (every == every[k]) @ (1 << np.arange(16))
        ambiguous = np.zeros(1 << 16, dtype=bool)
        ambiguous[np.delete(agreement, k)] = True
        for bit in range(16):  # subsets of an ambiguous set are ambiguous
            pairs = ambiguous.reshape(-1, 2, 1 << bit)
            pairs[:, 0] |= pairs[:, 1]
        found[k] = ~ambiguous
    return found


@cache
def clues() -> Digits:
    """(65536,) number of cells in a set."""
    return np.array([mask.bit_count() for mask in range(1 << 16)])


def count() -> dict[int, int]:
    """How many puzzles with one solution there are, by number of clues."""
    numbers = np.bincount(clues(), weights=24 * solvable().sum(axis=0)).astype(int)
    return {k: int(number) for k, number in enumerate(numbers) if number}


def random_puzzles(number: int, seed: int) -> tuple[Digits, Digits]:
    """(number, 16) different puzzles with one solution, digits 1 to 4, 0 where nothing is given, and their boards.

    The numbers of clues follow CLUES; with that, every puzzle is as likely as any other.
    """
    rng = np.random.default_rng(seed)
    sets = {k: np.argwhere(solvable() & (clues() == k)) for k in CLUES}
    kinds, shares = np.array(list(CLUES)), np.array(list(CLUES.values()))
    puzzles: dict[tuple[int, ...], Digits] = {}
    while len(puzzles) < number:
        k = rng.choice(kinds, p=shares / shares.sum())
        board, mask = sets[k][rng.integers(len(sets[k]))]
        solution = rng.permutation(4)[boards()[board]] + 1
        puzzle = np.where(mask >> np.arange(16) & 1, solution, 0)
        puzzles.setdefault(tuple(puzzle.tolist()), solution)
    return np.array(list(puzzles)), np.array(list(puzzles.values()))


def one_hot(digits: Digits) -> Array:
    """(B, 64) from digits (B, 16): four numbers a cell, all zero where nothing is given."""
    vectors: Array = np.eye(5)[digits][..., 1:].reshape(len(digits), 64)
    return vectors
