"""Evaluation of scene graphs: every metric and protocol of the field, equal to the public ones.

README.md beside this file defines each number. Names are imported at their first use, because
RelationEvaluator alone needs Detectron2.
"""

from typing import TYPE_CHECKING

from vrd_d2.moved import lazy_attributes

if TYPE_CHECKING:
    from vrd_d2.evaluation.files import FileResults, evaluate_files
    from vrd_d2.evaluation.image import evaluate_image
    from vrd_d2.evaluation.protocols import PROTOCOLS, Protocol, get_protocol
    from vrd_d2.evaluation.recall import RowStore, Summary, summarize
    from vrd_d2.evaluation.records import GroundTruth, Prediction
    from vrd_d2.evaluation.relation_evaluator import RelationEvaluator

__all__ = [
    "PROTOCOLS",
    "FileResults",
    "GroundTruth",
    "Prediction",
    "Protocol",
    "RelationEvaluator",
    "RowStore",
    "Summary",
    "evaluate_files",
    "evaluate_image",
    "get_protocol",
    "summarize",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "FileResults": "vrd_d2.evaluation.files",
        "GroundTruth": "vrd_d2.evaluation.records",
        "PROTOCOLS": "vrd_d2.evaluation.protocols",
        "Prediction": "vrd_d2.evaluation.records",
        "Protocol": "vrd_d2.evaluation.protocols",
        "RelationEvaluator": "vrd_d2.evaluation.relation_evaluator",
        "RowStore": "vrd_d2.evaluation.recall",
        "Summary": "vrd_d2.evaluation.recall",
        "evaluate_files": "vrd_d2.evaluation.files",
        "evaluate_image": "vrd_d2.evaluation.image",
        "get_protocol": "vrd_d2.evaluation.protocols",
        "summarize": "vrd_d2.evaluation.recall",
    },
)
