"""The page on which people rate the relations of a study: one file that needs nothing else."""

import base64
import html
import io
import json
import re
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from vrd_d2 import assets
from vrd_d2.data.atomic_files import write_text
from vrd_d2.evaluation.human.study import Study, StudyImage
from vrd_d2.media.images import read_image


def write_page(
    study: Study,
    path: str | Path,
    *,
    title: str = "Which relations are right?",
    max_side: int = 900,
    quality: int = 85,
    progress: bool = False,
) -> None:
    """Write the page. It names neither models nor ranks nor files.

    Args:
        path: the HTML file; its folder is made.
        title: headline of the page.
        max_side: images are made smaller to that many pixels of the longer side, never larger.
        quality: of the JPEGs, 1 to 95.
        progress: show a bar.

    Raises:
        ValueError: an image cannot be read, or its size is not that of its record.
    """
    if max_side < 16:
        raise ValueError(f"max_side is {max_side}: at least 16 pixels are needed")
    if not 1 <= quality <= 95:
        raise ValueError(f"quality is {quality}: JPEG takes 1 to 95")
    bar = tqdm(study.images, desc="images", disable=not progress)
    images = [_shown(image, max_side, quality) for image in bar]
    document = json.dumps({"study": study.id, "pictures": images})
    parts = {
        "title": html.escape(title),
        "style": _asset("human_page.css"),
        "script": _asset("human_page.js"),
        "files": _asset("human_files.js"),
        # No "<" remains that could end the element; JSON reads the same.
        "study": document.replace("<", "\\u003c"),
    }
    # All at once, so that a title in braces stays a title.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("human_page.html"))
    write_text(path, page)


def _asset(name: str) -> str:
    return assets.path(name).read_text(encoding="utf-8").strip()


def _shown(image: StudyImage, max_side: int, quality: int) -> dict:
    """Return an image as the page gets it: boxes in fractions of its sides."""
    pixels, _ = read_image(image.file_name)
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise ValueError(
            f"{image.file_name} is {width} x {height} pixels, but the dataset has "
            f"{image.width} x {image.height}: its boxes would not fit; correct the annotations"
        )
    smaller = Image.fromarray(pixels)
    smaller.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    smaller.save(file, "JPEG", quality=quality, optimize=True)
    scale = (width, height, width, height)
    return {
        "width": width,
        "height": height,
        "source": "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(),
        "entities": [
            {
                "label": entity.label,
                "box": [
                    round(min(max(x / side, 0), 1), 5)
                    for x, side in zip(entity.box, scale, strict=True)
                ],
            }
            for entity in image.entities
        ],
        "relations": [
            {
                "id": item.id,
                "subject": item.subject,
                "predicate": item.predicate,
                "object": item.object,
            }
            for item in image.items
        ],
    }
