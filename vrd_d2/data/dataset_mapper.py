"""From dataset dicts to examples of models, without losing a box or a relation."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image

from vrd_d2.data.boxes import annotation_xyxy, box_array
from vrd_d2.data.formats.coco import Detections
from vrd_d2.data.images.sizes import size_problem
from vrd_d2.data.record_values import short
from vrd_d2.media.images import read_image, read_stored


class RelationMapper:
    """Turn dataset dicts into examples of a relation model, in training and test alike.

    Detectron2's own mapper drops empty boxes and crowds, and at test time all annotations; either
    shifts or loses the indices of relations. This one drops no box and changes none, also if it has
    no area or reaches outside the image: it is not clipped, so that in PredCls and SGCls the boxes
    of the output are those of the annotation. The dataset dict is not changed.

    Flips are up to ``INPUT.RANDOM_FLIP``, in training: relations keep their indices, but "left of"
    or "facing left" do not survive a horizontal flip, so flip only where no predicate
    tells left from right ("none" is right for the built-in configs).
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        detections: Mapping[str, Detections] | None = None,
    ):
        """Store what every image is treated with.

        Args:
            augmentations: resizing and flips, applied to image and boxes.
            image_format: channel order of the example's image, such as "BGR".
            detections: the user's boxes by file name, of
                :func:`~vrd_d2.data.detections.load_own_boxes`.
        """
        self.augmentations = tuple(augmentations)
        self.image_format = image_format
        self.detections = detections or {}

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read INPUT.MIN_SIZE_*, MAX_SIZE_*, RANDOM_FLIP (training only) and FORMAT.

        Raises:
            ValueError: INPUT.CROP.ENABLED in training: a crop loses boxes and so relations.
        """
        if is_train and cfg.INPUT.CROP.ENABLED:
            raise ValueError(
                "INPUT.CROP.ENABLED is True: a crop loses boxes, and their relations with them; "
                "set it to False"
            )
        return {
            "augmentations": detection_utils.build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
        }

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a dataset dict into an example of a relation model.

        Args:
            dataset_dict: Detectron2's, with "relations"; "annotations" and "relations" may be
                missing.

        Returns:
            :func:`relation_example` of it, and "file_name" and, if the dict has them, "image_id"
            and "distant".

        Raises:
            ValueError: names the image that is missing, broken or of another size than stated,
                or whose relations do not fit its annotations.
        """
        image = _read_image(dataset_dict, self.image_format)
        annotations = dataset_dict.get("annotations", ())
        try:
            if any("category_id" not in annotation for annotation in annotations):
                raise ValueError("an annotation has no 'category_id': add it")
            example = relation_example(
                image,
                [annotation_xyxy(annotation) for annotation in annotations],
                [annotation["category_id"] for annotation in annotations],
                relations=dataset_dict.get("relations", ()),
                augmentations=self.augmentations,
                detections=self.detections.get(dataset_dict["file_name"]),
            )
        except ValueError as error:
            raise ValueError(f"{_name(dataset_dict)}: {error}") from error
        example["file_name"] = dataset_dict["file_name"]
        for key in ("image_id", "distant"):
            if key in dataset_dict:
                example[key] = dataset_dict[key]
        return example


def relation_example(
    image: np.ndarray,
    boxes: np.ndarray | Sequence[Sequence[float]] = (),
    classes: np.ndarray | Sequence[int] | None = None,
    *,
    relations: np.ndarray | Sequence[Sequence[int]] = (),
    augmentations: Sequence[T.Augmentation | T.Transform] = (),
    detections: Detections | None = None,
) -> dict[str, Any]:
    """Make an example of a relation model out of arrays: for given boxes, without a dataset.

    Args:
        image: uint8 (H, W, 3), channels as the model's ``INPUT.FORMAT`` says (BGR by default).
        boxes: (M, 4) XYXY in pixels of `image`; none for SGDet, where the model finds them.
        classes: (M,) ids, or None if they are not known (SGCls).
        relations: (R, 3) rows (subject index, object index, predicate id) into `boxes`.
        augmentations: applied to image and boxes; ``RelationMapper(cfg, is_train=False)
            .augmentations`` resizes as the config does at test time.
        detections: what stands in for a detector's answer, in pixels of `image`.

    Returns:
        "image": uint8 (3, H', W'), resized; "height", "width": H and W, to which the model maps its
        output back; "instances": Instances(M) of size (H', W') with gt_boxes in the resized
        image and, if given, gt_classes; "relations": int64 (R, 3). The M boxes and R relations
        are those given, in their order. With `detections` also "detections": Instances of size
        (H', W') with pred_boxes, scores and, if known, pred_classes.

    Raises:
        ValueError: an array has a wrong shape or type, a box is not finite, or an index does not
            point at a box.
    """
    boxes, rows = _checked(image, boxes, classes, relations)
    height, width = image.shape[:2]
    count = len(boxes)
    if detections is not None:
        boxes = np.concatenate([boxes, detections.boxes])
    augmented = T.AugInput(image, boxes=boxes)
    T.AugmentationList(augmentations)(augmented)
    resized = torch.tensor(augmented.boxes, dtype=torch.float32).reshape(-1, 4)
    instances = Instances(augmented.image.shape[:2])
    instances.gt_boxes = Boxes(resized[:count])
    if classes is not None:
        instances.gt_classes = torch.tensor(np.asarray(classes, np.int64))
    # Always a copy: without a resize the array is that of the caller.
    pixels = np.array(augmented.image.transpose(2, 0, 1), order="C")
    example = {
        "image": torch.from_numpy(pixels),
        "height": height,
        "width": width,
        "instances": instances,
        "relations": torch.tensor(rows),
    }
    if detections is not None:
        found = example["detections"] = Instances(instances.image_size)
        found.pred_boxes = Boxes(resized[count:])
        found.scores = torch.tensor(np.asarray(detections.scores, np.float32))
        if detections.classes is not None:
            found.pred_classes = torch.tensor(np.asarray(detections.classes, np.int64))
    return example


def _checked(
    image: np.ndarray, boxes: Any, classes: Any, relations: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as float64 (M, 4) and relations as int64 (R, 3), all arguments checked."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{getattr(image, 'dtype', type(image))} {getattr(image, 'shape', '')}"
        raise ValueError(f"image is {found}: it must be a uint8 array (H, W, 3)")
    boxes = box_array(boxes)
    count = len(boxes)
    if classes is not None and np.shape(classes) != (count,):
        raise ValueError(f"classes of shape {np.shape(classes)} for {count} boxes: one for each")
    try:
        rows = np.asarray(relations, np.int64)
    except (ValueError, TypeError, OverflowError) as error:  # rows of different lengths
        raise ValueError(f"relations are {short(relations)}: they must be (R, 3)") from error
    if rows.size == 0:
        rows = rows.reshape(0, 3)
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(f"relations of shape {rows.shape}: they must be (R, 3)")
    outside = ((rows[:, :2] < 0) | (rows[:, :2] >= count)).any(1).nonzero()[0]
    if len(outside):
        raise ValueError(
            f"relations[{outside[0]}] is {rows[outside[0]].tolist()}: subject and object must be "
            f"indices of the {count} boxes"
        )
    return boxes, rows


class DetectionMapper(DatasetMapper):
    """Detectron2's mapper for detectors, with the image reader and the messages of this package."""

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a dataset dict into an example of a detector.

        Raises:
            ValueError: names the image that is missing, broken or of another size than stated.
        """
        pixels = _read_image(dataset_dict, self.image_format)
        example = copy.deepcopy(dataset_dict)
        example.setdefault("width", pixels.shape[1])
        example.setdefault("height", pixels.shape[0])
        labels = None
        if "sem_seg_file_name" in example:
            labels = read_stored(example.pop("sem_seg_file_name"), "L")
            if labels.shape != pixels.shape[:2]:
                raise ValueError(
                    f"{_name(dataset_dict)} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but "
                    f"{dataset_dict['sem_seg_file_name']} has {labels.shape[1]} x {labels.shape[0]}"
                )
        augmented = T.AugInput(pixels, sem_seg=labels)
        transforms = self.augmentations(augmented)
        chw = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        example["image"] = torch.as_tensor(chw)
        if labels is not None:
            example["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                example,
                augmented.image.shape[:2],
                transforms,
                proposal_topk=self.proposal_topk,
            )
        if not self.is_train:
            example.pop("annotations", None)
        elif "annotations" in example:
            self._transform_annotations(example, transforms, augmented.image.shape[:2])
        return example


def _name(dataset_dict: Mapping[str, Any]) -> str:
    return f"image {dataset_dict['file_name']} (image {dataset_dict.get('image_id')!r})"


def _read_image(dataset_dict: Mapping[str, Any], image_format: str) -> np.ndarray:
    """Read the image of a dict, channels as INPUT.FORMAT says: uint8 (H, W, 3) for BGR, RGB."""
    file_name = dataset_dict["file_name"]
    if not os.path.exists(file_name):
        raise ValueError(
            f"{_name(dataset_dict)} is missing: put it there or correct the image folder"
        )
    try:
        pixels, _ = read_image(file_name)
    except ValueError as error:
        raise ValueError(f"{_name(dataset_dict)}: {error}") from error
    if problem := size_problem(dataset_dict, pixels.shape[1], pixels.shape[0]):
        raise ValueError(f"{_name(dataset_dict)} {problem}")
    if image_format in ("BGR", "RGB"):
        return pixels[:, :, ::-1] if image_format == "BGR" else pixels
    return detection_utils.convert_PIL_to_numpy(Image.fromarray(pixels), image_format)
