"""CSV files of published datasets; whatever is wrong is a ValueError with file, line and remedy."""

import csv
import os
from collections.abc import Iterator, Sequence

from vrd_d2.addresses import refuse_address
from vrd_d2.data.source_files import require_regular


def read_csv(
    path: str | os.PathLike, columns: Sequence[tuple[str, ...]]
) -> Iterator[tuple[int, list[str]]]:
    """Read some columns of a CSV file with a header.

    Args:
        path: the file.
        columns: for each wanted column, the names that it may have in the header.

    Yields:
        Number of the line in the file, and the values of the wanted columns, in their order.

    Raises:
        ValueError: there is no such file, it is no UTF-8 text, or a column or value is missing.
    """
    lines = _csv_lines(path)
    _, header = next(lines, (1, []))
    positions = []
    for names in columns:
        found = [header.index(name) for name in names if name in header]
        if not found:
            raise ValueError(
                f"{path}: line 1: no column {' or '.join(names)} among {', '.join(header)[:200]}: "
                "is this the right file, with its header?"
            )
        positions.append(found[0])
    for number, row in lines:
        if len(row) != len(header):
            raise ValueError(
                f"{path}: line {number}: {len(row)} values, but the header has {len(header)} "
                "columns: get the file again"
            )
        yield number, [row[position] for position in positions]


def read_csv_pairs(path: str | os.PathLike, headers: frozenset[str]) -> dict[str, str]:
    """Read a CSV file of two columns as first value -> second value.

    Args:
        path: the file.
        headers: first cells that make the first line a header; there may be none.

    Raises:
        ValueError: there is no such file, it is no UTF-8 text, a line has not two values, or the
            same first value stands for two others.
    """
    pairs: dict[str, str] = {}
    for number, row in _csv_lines(path):
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise ValueError(f"{path}: line {number}: {row[:5]} must be two values: get it again")
        key, value = row
        if number == 1 and key in headers:
            continue
        if pairs.setdefault(key, value) != value:
            raise ValueError(
                f"{path}: line {number}: {key!r} is {value!r} here and {pairs[key]!r} before: "
                "keep one of the two lines"
            )
    return pairs


def _csv_lines(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and values of all lines that are not empty."""
    refuse_address(path)
    require_regular(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}: check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}): get it again") from error
