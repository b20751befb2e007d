"""The drawn scenes: figures, groups of figures, and layouts with annotated relations."""
