"""How wide the columns of a table are, so that it can be read on any terminal: words are cut last, figures never."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

FOLDED_WIDTH = 20
"""Columns of the terminal within which a longer word is folded, where there is no room for all of it."""
GAPS = (2, 1)
"""Blanks between two columns: the second where the first leaves no room."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The blanks between columns, and the width of each."""

    gap: int
    widths: tuple[int, ...]


def layout(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int) -> Layout | None:
    """The widths of a table's columns; None where it cannot be read at this width.

    Text is folded between words, a word only beyond `FOLDED_WIDTH`, figures not at all. What room is left goes to the
    columns in equal parts, as far as they can use it.

    Args:
        headers: the columns' headers.
        rows: the cells, as many as headers in each row.
        numeric: which columns hold figures.
        width: of the terminal.

    >>> rows = [("conv2_out", "0.0235", "the op is not in the pack")]
    >>> for width in (80, 40, 25):
    ...     print(layout(("tensor", "scale", "reason"), rows, (False, True, False), width))
    Layout(gap=2, widths=(9, 6, 25))
    Layout(gap=2, widths=(9, 6, 21))
    Layout(gap=2, widths=(9, 6, 6))
    >>> layout(("tensor", "scale", "reason"), rows, (False, True, False), 20)
    """
    columns = [[header, *(row[i] for row in rows)] for i, header in enumerate(headers)]
    natural = [max(cell_len(text) for text in column) for column in columns]
    least = [
        max(longest_word(column[0]), *(cell_len(text) if figures else longest_word(text) for text in column[1:]), 1)
        for column, figures in zip(columns, numeric, strict=True)
    ]
    for gap in GAPS:
        room = width - gap * (len(columns) - 1) - sum(least)
        if room >= 0:
            return Layout(gap, _shared_out(room, least, natural))
    return None


def without_middles(column: Sequence[str], width: int) -> list[str]:
    """A column's cells, names that are wider than the column without their middle.

    Those that would look alike then have their end alone, and if these are alike, too, they stay whole.

    >>> names = ("net/block_1/conv/Relu", "net/block_2/conv/Relu", "net/head/dense/MatMul, x")
    >>> for width in (40, 14, 12):
    ...     print(*without_middles(names, width))
    net/block_1/conv/Relu net/block_2/conv/Relu net/head/dense/MatMul, x
    …k_1/conv/Relu …k_2/conv/Relu net/hea…atMul, x
    …1/conv/Relu …2/conv/Relu net/he…tMul, x
    """
    long = {word for cell in column for word in cell.split(" ") if cell_len(word) > width}
    shown: dict[str, str] = {}
    for begin in (width // 2, 0):
        short = {word: f"{word[:begin]}…{word[len(word) - (width - 1 - begin) :]}" for word in long - shown.keys()}
        alike = Counter(short.values())
        shown |= {word: text for word, text in short.items() if alike[text] == 1}
    return [" ".join(shown.get(word, word) for word in cell.split(" ")) for cell in column]


def longest_word(text: str) -> int:
    """Width of the longest word, at most `FOLDED_WIDTH`.

    >>> longest_word("scale in r1"), longest_word("/a/path/without/any/blank/in/it")
    (5, 20)
    """
    return min(FOLDED_WIDTH, max((cell_len(word) for word in text.split(" ")), default=0))


def _shared_out(room: int, least: Sequence[int], natural: Sequence[int]) -> tuple[int, ...]:
    """Each column's least width and its part of the room; what needs least is served first."""
    widths = list(least)
    hungry = sorted(range(len(least)), key=lambda i: natural[i] - least[i])
    for served, index in enumerate(hungry):
        part = min(max(0, natural[index] - least[index]), room // (len(hungry) - served))
        widths[index] += part
        room -= part
    return tuple(widths)
