"""The evaluation protocols of the field, each a small set of switches.

Two implementations of "Recall@K" differ by points, so every table and every result file of this
package names its protocol. README.md beside this file describes each switch.
"""

from dataclasses import dataclass, replace

from vrd_d2.tasks import Task


@dataclass(frozen=True)
class Protocol:
    """What distinguishes one public evaluator from another.

    Attributes:
        name: what tables and result files call it.
        source: the public evaluator whose figures it reproduces.
        iou_threshold: least IoU of a matching box.
        inclusive_pixels: widths and heights count both end pixels (x2 - x1 + 1).
        unique_triplets: repeated ground-truth rows (subject, object, predicate) of an image count
            once instead of as often as they are annotated.
        empty_counts_zero: an image with ground truth but without any predicted pair scores 0
            instead of being left out of every mean.
        pooled: recall is hits / rows over the whole dataset instead of a mean over images.
        one_to_one: a prediction hits at most one ground-truth row, and a row hit once is taken.
            Where annotated pairs alone are ranked, every row then has a prediction of its own.
        annotated_pairs: where boxes are given, only predictions on annotated pairs are ranked
            ("predicate detection" of Lu et al. 2016); otherwise all predicted pairs are.
        bind_boxes: a predicted box stands for its one best ground-truth box of the same class
            instead of for every one it overlaps enough.
        overlapping_pairs: predicted pairs whose two boxes do not overlap are dropped: "never",
            "detected" (where boxes are predicted) or "always".
        box_scale: boxes are compared after scaling the longer side of the image to this length
            (matters only together with ``inclusive_pixels``); None for the original scale.
        phrase: phrase detection (one union box per triplet) is reported as well.
    """

    name: str
    source: str
    iou_threshold: float = 0.5
    inclusive_pixels: bool = True
    unique_triplets: bool = False
    empty_counts_zero: bool = False
    pooled: bool = False
    one_to_one: bool = False
    annotated_pairs: bool = False
    bind_boxes: bool = False
    overlapping_pairs: str = "never"
    box_scale: int | None = None
    phrase: bool = False

    def ranks_annotated(self, task: Task) -> bool:
        """Return whether a task ranks annotated pairs alone; where boxes are detected none does."""
        return self.annotated_pairs and task.boxes_given


_SGB = Protocol("sgb", "Scene-Graph-Benchmark.pytorch (Tang et al. 2020)")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _SGB,
        replace(
            _SGB,
            name="visualds",
            source="VisualDS (Yao et al. 2021), the table of RelCLIP",
            unique_triplets=True,
        ),
        replace(
            _SGB,
            name="microsoft",
            source="microsoft/scene_graph_benchmark (Han et al. 2021)",
            empty_counts_zero=True,
            overlapping_pairs="always",
        ),
        replace(
            _SGB,
            name="motifs",
            source="neural-motifs (Zellers et al. 2018)",
            empty_counts_zero=True,
            overlapping_pairs="detected",
            box_scale=1024,
        ),
        replace(
            _SGB,
            name="vrd",
            source="Stanford VRD (Lu et al. 2016)",
            empty_counts_zero=True,
            pooled=True,
            one_to_one=True,
            annotated_pairs=True,
            phrase=True,
        ),
        replace(
            _SGB,
            name="sgbench",
            source="SGBench 1.0 (PyPI)",
            inclusive_pixels=False,
            unique_triplets=True,
            empty_counts_zero=True,
            bind_boxes=True,
        ),
    )
}


def get_protocol(
    protocol: str | Protocol,
    *,
    annotated_pairs: bool | None = None,
    task: Task | None = None,
) -> Protocol:
    """Return a protocol by its name; a ``Protocol`` is returned as it is.

    Args:
        annotated_pairs: the switch of that name; None leaves it as the protocol has it. A protocol
            whose switch is changed has another name, "sgb_annotated" or "vrd_all_pairs", so that
            its numbers are not taken for the others and both can stand side by side.
        task: what is evaluated, to check that it has annotated pairs.

    Raises:
        ValueError: an unknown name; annotated pairs of a task whose boxes are not given.
    """
    if not isinstance(protocol, Protocol):
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
        protocol = PROTOCOLS[protocol]
    if annotated_pairs is not None and not isinstance(annotated_pairs, bool):
        raise ValueError(
            f"annotated_pairs is {annotated_pairs!r}: give True, False, or None for what the "
            "protocol has"
        )
    if annotated_pairs and task is not None and not task.boxes_given:
        raise ValueError(
            f"{task.value} has no annotated pairs, because its boxes are not the annotation's: "
            "take predcls or sgcls, or leave the switch off"
        )
    if annotated_pairs in (None, protocol.annotated_pairs):
        return protocol
    name = f"{protocol.name}_{'annotated' if annotated_pairs else 'all_pairs'}"
    return replace(protocol, name=name, annotated_pairs=annotated_pairs)
