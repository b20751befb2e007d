"""Detection AP over the images that a dataset really has."""

from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator


class DetectionEvaluator(COCOEvaluator):
    """COCO's AP, by its official implementation, of the boxes of a registered dataset.

    Detectron2's own reads the annotation file, so that an image which the dataset leaves out
    (DATASETS.EXCLUDE, DATASETS.MISSING_IMAGES) would count as one in which nothing was found.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | None = None):
        # A cached conversion might be of another selection of images.
        super().__init__(
            dataset_name,
            tasks=("bbox",),
            output_dir=output_dir,
            use_fast_impl=False,
            allow_cached_coco=False,
        )
        records = DatasetCatalog.get(dataset_name)
        self._image_ids = [record["image_id"] for record in records]
        # COCO's evaluator would call the AP of nothing -1.
        self._do_evaluation &= any(record["annotations"] for record in records)

    def evaluate(self, img_ids: list | None = None) -> dict:
        """Return COCO's figures; by default over all images of the dataset."""
        return super().evaluate(self._image_ids if img_ids is None else img_ids)
