"""Importing this module registers the meta-architectures, backbones and relation heads."""

from vrd_d2.modeling import frequency, relclip  # noqa: F401
from vrd_d2.modeling.encoders import clip  # noqa: F401
from vrd_d2.modeling.relation_heads import build  # noqa: F401
from vrd_d2.modeling.union_clip import model  # noqa: F401
