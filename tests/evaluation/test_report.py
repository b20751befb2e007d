"""The table of results: its digits, and what it says of predicates without ground truth."""

import ast
import itertools
import json
import re

import numpy as np
import pytest

from vrd_d2.commands import evaluate as command
from vrd_d2.evaluation import RowStore, summarize
from vrd_d2.evaluation.image import ROW
from vrd_d2.evaluation.protocols import PROTOCOLS
from vrd_d2.evaluation.report import results_table
from vrd_d2.evaluation.results_file import read_results
from vrd_d2.tasks import Task

NAMES = {"protocol": PROTOCOLS["sgb"], "task": Task.SGDET}


def table(predicates, rank, num_predicates, **options):
    """The table of one image whose rows of these predicates are all hit at a rank."""
    rows = np.zeros(len(predicates), ROW)
    rows["predicate"] = rows["answer"] = predicates
    rows["new_pair"] = True
    for name in ("R", "ngR", "pair", "A", "phrase", "ng_phrase"):
        rows[name] = rank
    store = RowStore()
    store.add(0, rows, 1)
    summary = summarize(
        *RowStore.merge([store.state()]), num_predicates=num_predicates, **NAMES, **options
    )
    return results_table(summary, title="data", **NAMES)


def cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(("rank", "value"), [(0, "100.00"), (2000, "0.00")])
def test_every_number_has_two_digits_whatever_the_column(rank, value):
    found = [cell for _, *row in cells(table([0, 1, 2], rank, 3)) for cell in row]
    assert set(found) == {value}


def test_intervals_keep_their_digits():
    rows = dict((name, row) for name, *row in cells(table([0, 1, 2], 2000, 3, bootstrap=5)))
    assert rows["R@K"] == ["0.00 [0.0, 0.0]"] * 3


def test_predicates_without_ground_truth_are_counted_and_said():
    text = table([0, 0, 3], 0, 50)
    assert dict((name, row[0]) for name, *row in cells(text))["mR@K"] == "4.00"  # 2 of 50
    (line,) = [line for line in text.splitlines() if line.startswith("48 of 50 predicates")]
    assert "mR@K" in line and "ng-mR@K" in line and "0" in line
    assert "predicates have" not in table([0, 1, 2], 0, 3)


def test_examples_of_commands_keep_their_backslashes(repository, capsys):
    for path in [*repository.glob("tools/**/*.py"), *repository.glob("vrd_d2/commands/*.py")]:
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        # An eaten one joins its line with the next.
        assert not re.search(r"\S {4,}(--|[A-Z]+\.)", doc), path
        lines = doc.splitlines()
        for line, following in itertools.pairwise(lines):
            if "python " in line and following.startswith(" " * 8):
                assert line.endswith("\\"), (path, line)
    with pytest.raises(SystemExit):
        command.parse_arguments(["--help"])
    assert "--predictions predictions.jsonl.gz \\\n        --task" in capsys.readouterr().out


@pytest.mark.parametrize("value", [10**400, 10**300, -0.5, True, "0.5"])
def test_results_that_are_no_fractions_are_refused(tmp_path, value):
    path = tmp_path / "relations.json"
    content = {"task": "sgdet", "protocol": "sgb", "metrics": {"R": {"20": value, "50": 1.0}}}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"relations\.json.*'R'"):
        read_results(path)
