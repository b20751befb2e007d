"""Precision of the models as people see it, and how far these people agree."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from vrd_d2.evaluation.human.ratings import VERDICTS, Manifest, Ratings

DEFAULT_KS = (10, 20)


def fleiss_kappa(counts: np.ndarray) -> float:
    """Compute the agreement of raters above chance: 1 is perfect, 0 is chance (Fleiss 1971).

    kappa = (P - P_e) / (1 - P_e). P is the mean over subjects of the share of pairs of their
    ratings that agree, sum_j n_ij (n_ij - 1) / (n_i (n_i - 1)); P_e = sum_j p_j^2, where p_j is the
    mean over subjects of the share of category j. With as many ratings of every subject this is
    Fleiss' formula. Where the numbers differ it is Gwet's extension (Handbook of Inter-Rater
    Reliability, 4th ed., 2014, chapter 2): P is of the subjects with two ratings or more.

    Args:
        counts: (subjects, categories), how many raters chose each category.

    Returns:
        NaN where no subject has two ratings, or every rating is of one category.
    """
    counts = np.asarray(counts, np.float64)
    counts = counts[counts.sum(1) > 0]
    ratings = counts.sum(1)
    several = ratings > 1
    if not several.any():
        return math.nan
    agreeing = (counts * (counts - 1)).sum(1)[several]
    agreement = (agreeing / (ratings * (ratings - 1))[several]).mean()
    by_chance = ((counts / ratings[:, None]).mean(0) ** 2).sum()
    if np.isclose(by_chance, 1):
        return math.nan
    return float((agreement - by_chance) / (1 - by_chance))


def majority(votes: Counter) -> float:
    """Return 1 where most raters chose yes, 0 where most chose no, 0.5 for a tie, else NaN."""
    if not votes["yes"] + votes["no"]:
        return math.nan
    return 0.5 * (1 + np.sign(votes["yes"] - votes["no"]))


def human_report(
    manifest: Manifest,
    ratings: Ratings,
    *,
    ks: Sequence[int] | None = None,
    bootstrap: int = 1000,
) -> dict:
    """Compute P@K of every model, and the agreement of the raters.

    The precision of an image is the share of right relations among a model's first K, or among
    all of its relations where these are fewer, by the majority of yes and no; a skip is no vote
    and a tie is half right. Relations without a vote are left out, and so are images without
    any; but one that is rated and for which the model proposes nothing counts 0. P@K is the mean
    over images.

    Args:
        ks: the K; by default 10 and 20, as far as the study goes.
        bootstrap: resamples of the images for 95 % intervals, the same every time; 0 for none.

    Returns:
        JSON of fractions in 0..1, null where there is nothing to compute: "models" {name: {"P":
        {K: ...}, "intervals_95", "pictures", "relations", "rated", "missing", "ties"}},
        "differences" of every
        model to the first on the images of both, "agreement" {"fleiss_kappa", "observed",
        "relations"}, "raters" {name: {"yes", "no", "skip", "missing"}}, "relations" {"total",
        "rated", "skipped", "missing", "ties"}.

    Raises:
        ValueError: a K is not among 1..top.
    """
    ks = sorted(set(ks)) if ks else [k for k in DEFAULT_KS if k <= manifest.top] or [manifest.top]
    for k in ks:
        if not 1 <= k <= manifest.top:
            raise ValueError(
                f"K is {k}, but the page has the best {manifest.top} relations of a model: choose "
                f"from 1 to {manifest.top}, or make a page with a larger --top"
            )
    votes = {relation: Counter() for relation in manifest.relations}
    for of_rater in ratings.values():
        for relation, verdict in of_rater.items():
            votes[relation][verdict] += 1
    right = {relation: majority(of_relation) for relation, of_relation in votes.items()}
    names = list(manifest.ranked)
    # (models, Ks, images)
    precision = np.array([[_precisions(manifest, name, right, k) for k in ks] for name in names])
    drawn = _resamples(precision.shape[2], bootstrap)
    counts = np.array([[votes[r]["yes"], votes[r]["no"]] for r in manifest.relations])
    models = {}
    for name, of_model in zip(names, precision, strict=True):
        unique = {relation for ids in manifest.ranked[name] for relation in ids}
        counted = (~np.isnan(of_model)).sum(1)
        models[name] = {
            **_means(of_model, ks, drawn),
            "pictures": {str(k): int(n) for k, n in zip(ks, counted, strict=True)},
            **_tally([right[relation] for relation in unique]),
        }
    rated = [right[relation] for relation in manifest.relations]
    skipped = sum(math.isnan(right[r]) and votes[r]["skip"] > 0 for r in manifest.relations)
    return {
        "study": manifest.study,
        "dataset": manifest.dataset,
        "task": manifest.task,
        "pictures": precision.shape[2],
        "models": models,
        "differences": {
            f"{name} - {names[0]}": _means(of_model - precision[0], ks, drawn)
            for name, of_model in zip(names[1:], precision[1:], strict=True)
        },
        "agreement": _agreement(counts),
        "raters": {
            name: {
                **{verdict: list(given.values()).count(verdict) for verdict in VERDICTS},
                "missing": len(manifest.relations) - len(given),
            }
            for name, given in ratings.items()
        },
        "relations": {**_tally(rated), "skipped": skipped},
    }


def _precisions(manifest: Manifest, model: str, right: dict[str, float], k: int) -> list[float]:
    """Return the precision of each image; NaN where nobody rated the relations that count."""
    result = []
    for ids, everything in zip(manifest.ranked[model], manifest.images, strict=True):
        values = [right[relation] for relation in (ids[:k] or everything)]
        rated = [value for value in values if not math.isnan(value)]
        if not rated:
            result.append(math.nan)
        else:
            result.append(float(np.mean(rated)) if ids else 0.0)
    return result


def _resamples(images: int, bootstrap: int) -> np.ndarray:
    """Return (bootstrap, images) how often each resample has each image."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, images, images) for _ in range(bootstrap)]
    return np.array([np.bincount(row, minlength=images) for row in rows], np.float64).reshape(
        bootstrap, images
    )


def _means(values: np.ndarray, ks: Sequence[int], drawn: np.ndarray) -> dict:
    """Compute means over the images (Ks, images) that have a value, with intervals."""
    result: dict[str, dict] = {"P": {}, "intervals_95": {}}
    for k, of_k in zip(ks, values, strict=True):
        known = ~np.isnan(of_k)
        result["P"][str(k)] = float(of_k[known].mean()) if known.any() else None
        weights = drawn[:, known]
        weights = weights[weights.sum(1) > 0]
        if known.any() and len(weights):
            means = weights @ of_k[known] / weights.sum(1)
            result["intervals_95"][str(k)] = np.quantile(means, [0.025, 0.975]).tolist()
    return result


def _tally(values: Sequence[float]) -> dict[str, int]:
    rated = [value for value in values if not math.isnan(value)]
    return {
        "relations": len(values),
        "rated": len(rated),
        "missing": len(values) - len(rated),
        "ties": rated.count(0.5),
    }


def _agreement(counts: np.ndarray) -> dict:
    """Compute the agreement on yes and no: skips are no votes."""
    several = counts[counts.sum(1) > 1]
    result: dict[str, float | int | None] = {
        "fleiss_kappa": None,
        "observed": None,
        "relations": len(several),
    }
    if len(several):
        kappa, ratings = fleiss_kappa(counts), several.sum(1)
        result["fleiss_kappa"] = None if math.isnan(kappa) else kappa
        agreeing = (several * (several - 1)).sum(1) / (ratings * (ratings - 1))
        result["observed"] = float(agreeing.mean())
    return result


def report_markdown(report: dict) -> str:
    """Format the report as Markdown tables; percent, 95 % intervals in brackets."""
    ks = list(next(iter(report["models"].values()))["P"])
    header = [f"P@{k}" for k in ks]
    relations, raters = report["relations"], report["raters"]
    rows = [
        [_cell(name), *_values(found, ks), found["rated"], found["missing"], found["ties"]]
        for name, found in report["models"].items()
    ]
    parts = [
        f"Human evaluation on {report['dataset']}, {report['task']}: {report['pictures']} "
        f"images, {relations['relations']} relations, raters: {len(raters)}, page "
        f"{report['study']}",
        _table(rows, ["model", *header, "rated", "missing", "ties"]),
        "P@K in percent: share of right relations among the first K of an image (or among all "
        "where there are fewer), by majority of the raters, a tie counting half; mean over the "
        "images with ratings, 95 % bootstrap intervals over images.",
    ]
    used = sorted({n for found in report["models"].values() for n in found["pictures"].values()})
    if used != [report["pictures"]]:
        parts[-1] += (
            f" Some images are not rated yet: {used[0]} to {used[-1]} of {report['pictures']} "
            "count, depending on model and K."
        )
    if report["differences"]:
        rows = [[_cell(n), *_values(found, ks)] for n, found in report["differences"].items()]
        parts.append(_table(rows, ["difference", *header]))
    rows = [[_cell(name), *found.values()] for name, found in raters.items()]
    parts.append(_table(rows, ["rater", *VERDICTS, "missing"]))
    parts.append(
        f"Relations: {relations['relations']}, rated {relations['rated']}, missing "
        f"{relations['missing']} (of these only skipped: {relations['skipped']}), ties "
        f"{relations['ties']}."
    )
    parts.append(_agreement_text(report["agreement"]))
    return "\n\n".join(parts)


def _agreement_text(agreement: dict) -> str:
    if not agreement["relations"]:
        return "Fleiss' kappa: none, since no relation has the votes of two raters."
    shared = (
        f"over {agreement['relations']} relations with the votes of two raters or more (two "
        f"votes on a relation agree {100 * agreement['observed']:.1f} % of the time)"
    )
    if agreement["fleiss_kappa"] is None:
        return f"Fleiss' kappa: not defined, every vote is the same, {shared}."
    return f"Fleiss' kappa: {agreement['fleiss_kappa']:.3f} {shared}."


def _table(rows: list[list], header: list[str]) -> str:
    align = ("left", *["right"] * (len(header) - 1))
    return tabulate(rows, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def _values(found: dict, ks: Sequence[str]) -> list[str]:
    cells = []
    for k in ks:
        value, interval = found["P"][k], found["intervals_95"].get(k)
        cells.append("-" if value is None else _percent(value))
        if interval:
            cells[-1] += f" [{_percent(interval[0])}, {_percent(interval[1])}]"
    return cells


def _percent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f}"  # no -0.0


def _cell(text: str) -> str:
    """Escape a name: a bar would end the cell, a line break the row."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
