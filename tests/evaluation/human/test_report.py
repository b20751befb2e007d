"""Human evaluation: agreement of the raters, their files, and the precision that follows."""

import json
import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from vrd_d2.evaluation.human.ratings import Manifest, read_ratings
from vrd_d2.evaluation.human.report import fleiss_kappa, human_report, report_markdown
from vrd_d2.evaluation.human.study import RATINGS_FORMAT

# --- Agreement ---


def test_kappa_of_the_classic_example() -> None:
    """10 subjects, 14 raters, 5 categories; worked by hand: P = 0.378, P_e = 0.213."""
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_kappa_of_unequal_numbers_is_that_of_the_pairs_of_ratings() -> None:
    """The third subject has one rating: it tells how frequent yes is, not whether raters agree."""
    subjects = [["yes", "yes", "no"], ["no", "no"], ["yes"]]
    agreeing = [np.mean([a == b for a, b in combinations(ratings, 2)]) for ratings in subjects[:2]]
    yes = np.mean([2 / 3, 0, 1])
    chance = yes**2 + (1 - yes) ** 2
    expected = (np.mean(agreeing) - chance) / (1 - chance)
    counts = [[ratings.count("yes"), ratings.count("no")] for ratings in subjects]
    assert fleiss_kappa([*counts, [0, 0]]) == pytest.approx(expected)


def test_kappa_without_sense() -> None:
    assert fleiss_kappa([[3, 0], [0, 3]]) == 1
    assert math.isnan(fleiss_kappa([[1, 0], [0, 1]]))  # one rater
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))  # nobody ever says no


# --- Ratings and report ---


MANIFEST = Manifest(
    study="s1",
    dataset="data",
    task="predcls",
    top=2,
    images=[["r1", "r2", "r3"], ["r4"], ["r5", "r6"]],
    ranked={"a": [["r1", "r2"], ["r4"], ["r5"]], "b": [["r3", "r1"], [], ["r6", "r5"]]},
)


def votes(**of_relations: str) -> dict[str, dict[str, str]]:
    """Ratings of Ann, Bob and Cy from strings such as yn-: - is skip, a blank is missing."""
    words = {"y": "yes", "n": "no", "-": "skip"}
    ratings = {"Ann": {}, "Bob": {}, "Cy": {}}
    for relation, letters in of_relations.items():
        for name, letter in zip(ratings, letters, strict=False):
            if letter in words:
                ratings[name][relation] = words[letter]
    return ratings


def markdown(report: dict) -> str:
    """The report's text without the blanks that align its columns."""
    return re.sub(" +", " ", report_markdown(report))


def test_report_worked_by_hand() -> None:
    # right: r1 1, r2 0, r3 a tie, r4 1, r5 nobody, r6 only skipped
    ratings = votes(r1="yyn", r2="nn-", r3="yn-", r4="y", r6="--")
    report = human_report(MANIFEST, ratings, ks=[1, 2])
    a, b = report["models"]["a"], report["models"]["b"]
    # a: image 1 P@1 = 1, P@2 = (1 + 0) / 2; image 2 1, 1; image 3 not rated
    assert a["P"] == {"1": 1.0, "2": 0.75}
    # b: image 1 P@1 = 0.5, P@2 = (0.5 + 1) / 2; image 2 nothing: 0; image 3 not rated
    assert b["P"] == {"1": 0.25, "2": 0.375}
    assert a["pictures"] == b["pictures"] == {"1": 2, "2": 2}
    tally = ("relations", "rated", "missing", "ties")
    assert [a[key] for key in tally] == [4, 3, 1, 0]
    assert [b[key] for key in tally] == [4, 2, 2, 1]
    assert [report["relations"][key] for key in (*tally, "skipped")] == [6, 4, 2, 1, 1]
    assert report["differences"]["b - a"]["P"] == {"1": -0.75, "2": -0.375}
    assert report["raters"]["Cy"] == {"yes": 0, "no": 1, "skip": 2, "missing": 3}
    # r1, r2, r3 have several votes: yes and no 2 1, 0 2, 1 1; r4 has one
    counts = [[2, 1], [0, 2], [1, 1], [1, 0]]
    assert report["agreement"]["relations"] == 3
    assert report["agreement"]["fleiss_kappa"] == pytest.approx(fleiss_kappa(counts))
    assert report["agreement"]["observed"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    json.dumps(report, allow_nan=False)
    table = markdown(report)
    assert "| a | 100.0 [100.0, 100.0] | 75.0 [50.0, 100.0] | 3 | 1 | 0 |" in table
    assert "2 to 2 of 3" in table
    assert "| b - a" in table and "ties 1" in table and "Fleiss' kappa: -" in table


def test_a_image_that_nobody_rated_does_not_count() -> None:
    """Not even for the model that proposes nothing there."""
    report = human_report(MANIFEST, votes(r1="y"), ks=[2])
    assert report["models"]["b"]["P"] == {"2": 1.0}
    assert report["models"]["b"]["pictures"] == {"2": 1}


def test_a_report_without_votes() -> None:
    report = human_report(MANIFEST, votes(r1="---"))
    assert report["models"]["a"]["P"] == {"2": None}  # K = 10 and 20 are beyond this study
    json.dumps(report, allow_nan=False)
    table = markdown(report)
    assert "| a | - |" in table and "no relation has the votes of two raters" in table


def test_intervals_are_those_of_resampled_images() -> None:
    rng = np.random.default_rng(1)
    right = rng.random((40, 5)) < 0.6
    ids = [[f"r{5 * p + i}" for i in range(5)] for p in range(40)]
    manifest = Manifest("s", "d", "sgdet", 5, ids, {"m": ids})
    given = {
        r: "yes" if right[p, i] else "no" for p, of in enumerate(ids) for i, r in enumerate(of)
    }
    report = human_report(manifest, {"Ann": given}, ks=[5], bootstrap=4000)["models"]["m"]
    means = right.mean(1)
    assert report["P"]["5"] == pytest.approx(means.mean())
    resampled = [rng.choice(means, 40).mean() for _ in range(4000)]
    assert report["intervals_95"]["5"] == pytest.approx(
        np.quantile(resampled, [0.025, 0.975]), abs=0.01
    )
    none = human_report(manifest, {"Ann": given}, ks=[5], bootstrap=0)["models"]["m"]
    assert none["intervals_95"] == {}


def test_k_beyond_the_study() -> None:
    with pytest.raises(ValueError, match=r"3.* 2 "):
        human_report(MANIFEST, votes(r1="y"), ks=[3])


def test_names_stay_in_their_cell() -> None:
    manifest = Manifest("s", "d", "sgdet", 1, [["r1"]], {"a|b\nc": [["r1"]]})
    table = markdown(human_report(manifest, {"x|y": {"r1": "yes"}}))
    assert "| a\\|b c |" in table and "| x\\|y |" in table


def ratings_file(path: Path, *raters: tuple[str, dict], study: str = "s1") -> Path:
    rows = [{"name": name, "ratings": given} for name, given in raters]
    path.write_text(json.dumps({"format": RATINGS_FORMAT, "study": study, "raters": rows}))
    return path


def test_one_rater_in_two_files(tmp_path: Path) -> None:
    first = ratings_file(tmp_path / "1.json", ("Ann", {"r1": "yes"}), ("Bob", {"r1": "no"}))
    second = ratings_file(tmp_path / "2.json", ("Ann ", {"r1": "yes", "r2": "skip"}))
    assert read_ratings([first, second], MANIFEST) == {
        "Ann": {"r1": "yes", "r2": "skip"},
        "Bob": {"r1": "no"},
    }
    third = ratings_file(tmp_path / "3.json", ("Ann", {"r2": "no"}))
    with pytest.raises(ValueError, match=r"Ann.*r2.*skip.*2\.json.*no.*3\.json"):
        read_ratings([first, second, third], MANIFEST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "ratings.json"),
        ('{"format"', "JSON"),
        ("[]", '"format"'),
        ({"format": "vrd_d2 human evaluation 1"}, "'vrd_d2 human evaluation 1'"),
        ({"study": "other"}, "'other'.*'s1'"),
        ({"raters": {}}, '"raters"'),
        ({"raters": [{"name": " ", "ratings": {}}]}, '"raters"'),
        ({"raters": []}, "ratings.json"),
        ({"raters": [{"name": "Ann", "ratings": {}}]}, "'Ann'"),
        ({"raters": [{"name": "Ann", "ratings": {"r9": "yes"}}]}, "'Ann'.*'r9'"),
        ({"raters": [{"name": "Ann", "ratings": {"r1": "ja"}}]}, "r1 'ja'.*yes.*no.*skip"),
    ],
)
def test_wrong_ratings(tmp_path: Path, text: object, message: str) -> None:
    path = tmp_path / "ratings.json"
    if isinstance(text, dict):
        text = json.dumps({"format": RATINGS_FORMAT, "study": "s1", "raters": [], **text})
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_ratings([path], MANIFEST)
    assert str(path) in str(error.value)
