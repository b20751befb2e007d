"""Every metric as a row of one table: what it counts, how it averages and what it is called.

Counting, result files, tables, Detectron2's results and the table in README.md follow from it, so
that a further metric of one of these kinds is a further row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vrd_d2.evaluation.protocols import Protocol
from vrd_d2.tasks import Task

# Conditions of ``Metric.needs``, in the order in which their metrics stand in result files.
ALWAYS, ZERO_SHOT, GIVEN_BOXES, PHRASE = "", "zero-shot list", "given boxes", "phrase detection"
GIVEN_BOXES_ZERO_SHOT = "given boxes and zero-shot list"
PHRASE_ZERO_SHOT = "phrase detection and zero-shot list"
NEEDS = (ALWAYS, ZERO_SHOT, GIVEN_BOXES, GIVEN_BOXES_ZERO_SHOT, PHRASE, PHRASE_ZERO_SHOT)


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: in result files.
        display: in tables, plots and Detectron2's results. With a "-" Detectron2 leaves a number
            out of its one-line summary.
        definition: in README.md; "" where the row of the metric before covers this one.
        ranks: column of ``image.ROW`` with the rank of the prediction that hits a row, or with
            whether a row is hit.
        rows: boolean column of ``image.ROW`` with the rows that count; "" for all.
        mean: over "images" (hits / rows of all images where a protocol pools them), "rows" (always
            hits / rows of all images) or "predicates".
        group: "head", "body" or "tail": only these predicates count.
        harmonic: names of two metrics in the table before; their harmonic mean is the metric, and
            the five attributes above are not used.
        needs: one of ``NEEDS``: when the metric is reported.
        at_one: it is counted at K = 1 alone, and its name is without K.
        by_predicate: under which name the values of each predicate are reported; "" where they are
            not. Metrics with a mean over predicates report what they average, others hits / rows.
    """

    name: str
    display: str
    definition: str = ""
    ranks: str = ""
    rows: str = ""
    mean: str = "images"
    group: str = ""
    harmonic: tuple[str, str] | None = None
    needs: str = ALWAYS
    at_one: bool = False
    by_predicate: str = ""

    def ks(self, ks: Sequence[int]) -> Sequence[int]:
        """Return the K at which it is counted, given those of Recall@K."""
        return (1,) if self.at_one else ks

    def label(self, k: int | str) -> str:
        """Return the name shown to people: "mR@50", or "top1"."""
        return self.display if self.at_one else f"{self.display}@{k}"


METRICS = (
    Metric("R", "R", "per image: rows hit / rows; mean over the scored images", ranks="R"),
    Metric("ngR", "ng-R", ranks="ngR"),
    Metric(
        "mR",
        "mR",
        "for each predicate the same within an image, mean over the images that have the "
        "predicate; then the mean over **all** K predicates, where one without ground truth adds 0",
        ranks="R",
        mean="predicates",
        by_predicate="R",
    ),
    Metric("ngmR", "ng-mR", ranks="ngR", mean="predicates", by_predicate="ngR"),
    Metric("F", "F", "harmonic mean of R@K and mR@K", harmonic=("R", "mR")),
    Metric("ngF", "ng-F", harmonic=("ngR", "ngmR")),
    Metric(
        "zR",
        "zR",
        "R@K over the rows whose (subject class, object class, predicate) is in the zero-shot "
        "list; images without such a row are left out",
        ranks="R",
        rows="zero_shot",
        needs=ZERO_SHOT,
    ),
    Metric("ngzR", "ng-zR", ranks="ngR", rows="zero_shot", needs=ZERO_SHOT),
    Metric(
        "A",
        "A",
        "only predictions on annotated pairs are ranked, then cut at K; rows hit / rows, pooled "
        "over the scored images. Not in SGDet",
        ranks="A",
        mean="rows",
        needs=GIVEN_BOXES,
    ),
    Metric("ngA", "ng-A", ranks="ngA", mean="rows", needs=GIVEN_BOXES),
    Metric(
        "zA",
        "zA",
        "A@K and ng-A@K over the rows in the zero-shot list",
        ranks="A",
        rows="zero_shot",
        mean="rows",
        needs=GIVEN_BOXES_ZERO_SHOT,
    ),
    Metric(
        "ngzA",
        "ng-zA",
        ranks="ngA",
        rows="zero_shot",
        mean="rows",
        needs=GIVEN_BOXES_ZERO_SHOT,
    ),
    Metric(
        "top1",
        "top1",
        "the best prediction on each row's own pair names its predicate; such rows / rows, pooled. "
        "Entity classes do not matter. Not in SGDet. A pair with two predicates can score one of "
        "them at most",
        ranks="top1",
        mean="rows",
        needs=GIVEN_BOXES,
        at_one=True,
        by_predicate="top1",
    ),
    Metric(
        "PR",
        "PR",
        "pair recall: distinct annotated pairs whose two boxes and classes are among the first K, "
        "whatever the predicate; mean over images",
        ranks="pair",
        rows="new_pair",
    ),
    Metric(
        "mR_head",
        "mR-head",
        "mR@K over thirds of the predicates by frequency (17, 17, 16 of 50): in training where "
        "`training_counts` is given, else in the scored ground truth",
        ranks="R",
        mean="predicates",
        group="head",
    ),
    Metric("mR_body", "mR-body", ranks="R", mean="predicates", group="body"),
    Metric("mR_tail", "mR-tail", ranks="R", mean="predicates", group="tail"),
    Metric(
        "phrase_R",
        "phrase-R",
        "the same triplet, one box around subject and object with IoU >= 0.5 (`vrd` only)",
        ranks="phrase",
        needs=PHRASE,
    ),
    Metric("phrase_ngR", "phrase-ng-R", ranks="ng_phrase", needs=PHRASE),
    Metric(
        "phrase_zR",
        "phrase-zR",
        "the same over the rows in the zero-shot list",
        ranks="phrase",
        rows="zero_shot",
        needs=PHRASE_ZERO_SHOT,
    ),
    Metric(
        "phrase_ngzR",
        "phrase-ng-zR",
        ranks="ng_phrase",
        rows="zero_shot",
        needs=PHRASE_ZERO_SHOT,
    ),
)


def chosen_metrics(task: Task, protocol: Protocol, *, with_zero_shot: bool) -> list[Metric]:
    """Return the metrics of an evaluation, in the order of result files."""
    reported = {
        ALWAYS: True,
        ZERO_SHOT: with_zero_shot,
        GIVEN_BOXES: task.boxes_given,
        GIVEN_BOXES_ZERO_SHOT: task.boxes_given and with_zero_shot,
        PHRASE: protocol.phrase,
        PHRASE_ZERO_SHOT: protocol.phrase and with_zero_shot,
    }
    ordered = sorted(METRICS, key=lambda metric: NEEDS.index(metric.needs))
    return [metric for metric in ordered if reported[metric.needs]]


def get_metric(name: str) -> Metric:
    """Return a metric by its name in result files."""
    return next(metric for metric in METRICS if metric.name == name)


def metric_by_predicate(name: str) -> Metric:
    """Return the metric that reports its values of each predicate under this name."""
    return next(metric for metric in METRICS if metric.by_predicate == name)


def definitions_table() -> str:
    """Return the Markdown table of README.md: a row for each definition."""
    rows: list[tuple[list[str], str]] = []
    for metric in METRICS:
        if metric.definition:
            rows.append(([], metric.definition))
        rows[-1][0].append(metric.label("K"))
    lines = [f"| {', '.join(names)} | {definition} |" for names, definition in rows]
    return "\n".join(["| name | definition |", "|---|---|", *lines])
