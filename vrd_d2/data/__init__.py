"""Datasets of relations: vocabularies, formats, registration, and the mapper."""
