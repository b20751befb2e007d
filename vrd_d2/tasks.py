"""The three standard tasks of scene-graph generation, reduced to the two facts they stand for."""

from enum import Enum


class Task(str, Enum):
    """PredCls, SGCls and SGDet (Xu et al. 2017; RelCLIP, section 4.1).

    Only two facts distinguish them, and no other module asks for the task itself:
    whether the boxes are given, and whether the classes of the entities are given.
    """

    PREDCLS = "predcls"
    SGCLS = "sgcls"
    SGDET = "sgdet"

    @property
    def title(self) -> str:
        """As papers write it."""
        return {"predcls": "PredCls", "sgcls": "SGCls", "sgdet": "SGDet"}[self.value]

    @property
    def boxes_given(self) -> bool:
        """True where the ground-truth boxes are the entities (PredCls, SGCls)."""
        return self is not Task.SGDET

    @property
    def classes_given(self) -> bool:
        """True where the ground-truth classes come with the boxes (PredCls)."""
        return self is Task.PREDCLS

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(
            f"unknown task {value!r}: choose one of {', '.join(task.value for task in cls)}"
        )
