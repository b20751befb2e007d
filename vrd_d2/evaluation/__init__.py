"""Evaluation of scene graphs: every metric and protocol of the field, equal to the public ones.

README.md beside this file defines each number.
"""

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
