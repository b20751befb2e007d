"""The page for people beside an exported model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from vrd_d2.data.source_files import read_json
from vrd_d2.modeling.relation_heads.build import relation_head_class

_TASKS = {
    "predcls": "PredCls: boxes and classes are given, predicates are predicted",
    "sgcls": "SGCls: boxes are given, classes and predicates are predicted",
    "sgdet": "SGDet: only the image is given",
    "detection": "detection of objects: boxes, classes and scores",
}
_USES = {
    "detector": "image -> boxes, classes, scores",
    "relations": "image and boxes -> relations",
    "full": "image -> boxes, classes, scores and relations",
}
_METRICS = [("R", 20), ("R", 50), ("R", 100), ("mR", 20), ("mR", 50), ("mR", 100), ("zR", 50)]


def model_card(
    cfg: CfgNode, metadata: dict[str, Any], *, file_name: str, results: Sequence[Path] = ()
) -> str:
    """Return Markdown: task, data, vocabulary, inputs and outputs, measured numbers, limits.

    Args:
        cfg: of the model.
        metadata: of :func:`~vrd_d2.export.metadata.describe`.
        file_name: of the exported model.
        results: relations_<task>_<protocol>.json files of the evaluator.

    Raises:
        ValueError: a results file is missing, of another kind or of another task.
    """
    pre = metadata["preprocessing"]
    size = (
        f"shorter side {pre['min_size']}, longer at most {pre['max_size']} pixels"
        if pre["min_size"]
        else "none"
    )
    lines = [
        f"# {metadata['meta_architecture']}, {metadata['task']}",
        "",
        f"`{file_name}`: {_USES[metadata['what']]}. {_TASKS[metadata['task']]}.",
        "",
        "| | |",
        "|---|---|",
        f"| trained on | {', '.join(cfg.DATASETS.TRAIN) or 'not stated'} |",
        f"| classes | {len(metadata['objects'])}: {_shortened(metadata['objects'])} |",
    ]
    if metadata["predicates"]:
        lines += [
            f"| predicates | {len(metadata['predicates'])}: {_shortened(metadata['predicates'])} |",
            "| image encoder | "
            + ", ".join(f"{k} {v}" for k, v in metadata["image_encoder"].items() if v)
            + ", frozen |",
        ]
    lines += [
        f"| resizing | {size} (Pillow, bilinear) |",
        f"| thresholds | {', '.join(f'{k} {v}' for k, v in metadata['thresholds'].items())} |",
        f"| versions | {', '.join(f'{k} {v}' for k, v in metadata['versions'].items())} |",
        "",
        "## Inputs and outputs",
        "",
        "| | name | type | shape | |",
        "|---|---|---|---|---|",
    ]
    for kind in ("inputs", "outputs"):
        lines += [
            f"| {kind[:-1]} | {e['name']} | {e['dtype']} | ({', '.join(e['shape'])}) | "
            f"{e['meaning']} |"
            for e in metadata[kind]
        ]
    lines += ["", "## Measured", "", *_measured(metadata["task"], results), "", "## Limits", ""]
    lines += [f"- {limit}" for limit in _limits(cfg, metadata)]
    return "\n".join(lines) + "\n"


def _shortened(names: Sequence[str], count: int = 12) -> str:
    more = ", ... (all of them in metadata.json)" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _measured(task: str, results: Sequence[Path]) -> list[str]:
    if not results:
        return ["Nothing was given to tools/export_model.py (`--results`)."]
    lines = [
        "In percent; each protocol counts differently (vrd_d2/evaluation/README.md).",
        "",
        "| data | protocol | images | " + " | ".join(f"{m}@{k}" for m, k in _METRICS) + " |",
        "|---|---|---|" + "---|" * len(_METRICS),
    ]
    for path in results:
        try:
            content = read_json(path, damaged="evaluate again")
            metrics, images = content["metrics"], content["images"]["scored"]
            found, protocol = content["task"], content["protocol"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no results file of the relation evaluator "
                f"(relations_<task>_<protocol>.json): {error!r}"
            ) from error
        if found != task:
            raise ValueError(f"{path} is of task {found}, the model of {task}")
        values = [metrics.get(metric, {}).get(str(k)) for metric, k in _METRICS]
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        lines.append(f"| {Path(path).parent.name} | {protocol} | {images} | {' | '.join(cells)} |")
    return lines


def _limits(cfg: CfgNode, metadata: dict[str, Any]) -> list[str]:
    limits = ["One image a call; float32."]
    if metadata["what"] == "detector":
        return [*limits, "Only the classes above are found; everything else is background."]
    limits.append(
        "Only the classes and predicates above are known; a relation outside of them is given the "
        "nearest of them or none."
    )
    if cfg.MODEL.RELATION.REQUIRE_OVERLAP:
        limits.append("Pairs whose boxes do not overlap are never related.")
    limits += relation_head_class(cfg).export_limits(cfg)
    limits.append(
        "Scores rank the relations of an image; they are not calibrated probabilities of being "
        "true. Datasets of relations are annotated sparsely and favour frequent predicates, and "
        "so does a model trained on them."
    )
    return limits
