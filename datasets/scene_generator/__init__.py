"""Drawn scenes: figures, groups of figures, and layouts with exact relations."""
