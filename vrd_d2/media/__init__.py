"""Reading images and videos, and finding them in folders."""

from vrd_d2.moved import lazy_attributes

__getattr__, __dir__ = lazy_attributes(__name__)
