"""Data sets of relations: vocabularies, formats, registration, and the mapper."""

from vrd_d2.data import builtin  # noqa: F401  # registers the built-in data sets
