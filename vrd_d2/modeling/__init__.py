"""Models; importing this package registers them with Detectron2."""

from vrd_d2.modeling.encoders.clip import CLIPViT, TextEncoder, load_clip
from vrd_d2.modeling.frequency import FrequencyBaseline
from vrd_d2.modeling.relation_model import RelationModel
from vrd_d2.modeling.relclip import RelCLIP
from vrd_d2.modeling.union_clip.model import UnionCLIP

__all__ = [
    "CLIPViT",
    "FrequencyBaseline",
    "RelCLIP",
    "RelationModel",
    "TextEncoder",
    "UnionCLIP",
    "load_clip",
]
