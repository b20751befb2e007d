"""Drawing scene graphs, as images and as pages."""

from vrd_d2.moved import lazy_attributes

__getattr__, __dir__ = lazy_attributes(__name__)
