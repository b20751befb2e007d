"""The demo's page. Needs Gradio."""

import functools
import html
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio
import safehttpx
from gradio.data_classes import ImageData

from vrd_d2.demo.answers import Answer, Example, answer, found_boxes, names_of
from vrd_d2.demo.models import DemoModel
from vrd_d2.demo.storage import Storage
from vrd_d2.tasks import Task
from vrd_d2.visualization.html_page import in_frame

TASKS = {
    Task.SGDET: "SGDet: image only",
    Task.SGCLS: "SGCls: boxes given",
    Task.PREDCLS: "PredCls: boxes and labels given",
}
COLUMNS = ["x", "y", "width", "height", "label"]
KEPT_SECONDS = 3600  # uploads and results; what is shown on a page is in the page
logger = logging.getLogger(__name__)


def hand_on_files(image: gradio.Image) -> gradio.Image:
    """Let an Image give the path of the upload, as Gradio has stored it under a safe name.

    Gradio would decode it first, and say of a broken one only that it is broken.
    """

    uploads = Path(image.GRADIO_CACHE).resolve()

    def path_of(payload: ImageData | None) -> str | None:
        if payload is None or payload.path is None:
            return None
        # A caller that is not the page may name any file of this computer.
        path = Path(os.path.realpath(payload.path))
        if not path.is_relative_to(uploads):
            raise gradio.Error("this image was not uploaded here", print_exception=False)
        return str(path)

    # Of this object alone: for a subclass Gradio would write a file beside this one.
    image.preprocess = path_of
    return image


def fetch_nothing() -> None:
    """Let Gradio fetch no address that a caller names, in a path or in place of an upload.

    It would be a way through this computer to others, and past the limits of uploads.
    """

    async def refused(*_: Any, **__: Any) -> None:
        raise gradio.Error("the demo loads nothing from other servers", print_exception=False)

    # By which Gradio fetches whatever a caller names, and asks whose address it is.
    safehttpx.get = safehttpx.async_validate_url = refused


def for_users(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show errors as messages on the page, on which what the user has entered remains."""

    @functools.wraps(function)
    def guarded(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except ValueError as error:
            # Gradio takes messages for HTML, and names of files and labels come from anywhere.
            message = html.escape(str(error))
            raise gradio.Error(message, duration=None, print_exception=False) from error
        except Exception as error:
            logger.exception("a fault of the program")
            reason = f"This should not happen: {type(error).__name__}. The log says more."
            raise gradio.Error(reason, duration=None, print_exception=False) from error

    return guarded


def build_page(
    models: Sequence[DemoModel], examples: Sequence[Example], storage: Storage, max_pixels: int
) -> gradio.Blocks:
    """Build the page; `storage` is also for files that are offered for download."""
    fetch_nothing()
    of_task = {task: [model for model in models if model.task is task] for task in TASKS}
    first = next(model for rows in of_task.values() for model in rows)
    detector = next(iter(of_task[Task.SGDET]), None)

    def chosen(task: str, name: str) -> DemoModel:
        for model in of_task[Task(task)]:
            if model.name == name:
                return model
        raise ValueError(f"there is no model {name!r} for {task}")

    def show_task(task: str) -> tuple:
        names = [model.name for model in of_task[Task(task)]]
        return gradio.update(choices=names, value=names[0]), *show_model(task, names[0])

    def show_model(task: str, name: str) -> tuple:
        model = chosen(task, name)
        return (
            gradio.update(visible=model.task.boxes_given),
            gradio.update(visible=model.takes_words),
            gradio.update(value="\n".join(model.vocabulary.predicates)),
            gradio.update(value="\n".join(model.vocabulary.objects), visible=model.takes_objects),
            gradio.update(visible=model.explains),
        )

    def find_boxes(image: str | None) -> list[list]:
        return found_boxes(detector, _given(image), max_pixels=max_pixels)

    def draw(image, task, name, rows, predicates, objects, top_k, score, entity_score, heat):
        if not storage.has_room():
            raise ValueError("the demo holds as much as it may: try again in an hour")
        model = chosen(task, name)
        found: Answer = answer(
            model,
            _given(image),
            _new_folder(storage.folder),
            rows=rows if model.task.boxes_given else (),
            objects=names_of(objects) if model.takes_objects else (),
            predicates=names_of(predicates),
            top_k=top_k,
            min_score=score,
            min_entity_score=entity_score,
            heat_maps=heat,
            max_pixels=max_pixels,
        )
        return in_frame(found.page), gradio.update(
            value=[str(file) for file in found.files], visible=True
        )

    cleaning = (KEPT_SECONDS // 4, KEPT_SECONDS)
    with gradio.Blocks(title="Scene graphs", fill_width=True, delete_cache=cleaning) as page:
        gradio.Markdown(
            "# Scene graphs\nA image goes in, and out comes who does what to whom: triplets such "
            "as *man riding horse*. Point at a box, an arrow or a line to see what belongs to it."
        )
        with gradio.Row():
            with gradio.Column(scale=2, min_width=330):
                image = hand_on_files(
                    gradio.Image(
                        label="Image",
                        sources=["upload", "webcam", "clipboard"],
                        type="filepath",
                        height=280,
                        elem_id="image",
                    )
                )
                tasks = [(text, task.value) for task, text in TASKS.items() if of_task[task]]
                task = gradio.Radio(tasks, value=first.task.value, label="Task", elem_id="task")
                model = gradio.Dropdown(
                    [m.name for m in of_task[first.task]],
                    value=first.name,
                    label="Model",
                    elem_id="model",
                )
                button = gradio.Button("Draw the graph", variant="primary", elem_id="draw")
                with gradio.Accordion(
                    "Your boxes", visible=first.task.boxes_given, elem_id="boxes"
                ) as box_part:
                    table = gradio.Dataframe(
                        headers=COLUMNS,
                        datatype=["number"] * 4 + ["str"],
                        type="array",
                        column_count=(len(COLUMNS), "fixed"),
                        row_count=1,
                        interactive=True,
                        show_label=False,
                        max_height=260,
                        elem_id="table",
                    )
                    with gradio.Row():
                        find = gradio.Button("Find boxes", visible=bool(detector), elem_id="find")
                        clear = gradio.Button("No boxes")
                with gradio.Accordion(
                    "Your words", open=False, visible=first.takes_words, elem_id="words"
                ) as word_part:
                    predicates = gradio.Textbox(
                        "\n".join(first.vocabulary.predicates),
                        label="Predicates, one a line",
                        lines=5,
                        max_lines=12,
                        elem_id="predicates",
                    )
                    objects = gradio.Textbox(
                        "\n".join(first.vocabulary.objects),
                        label="Objects, one a line",
                        lines=5,
                        max_lines=12,
                        visible=first.takes_objects,
                        elem_id="objects",
                    )
                heat = gradio.Checkbox(
                    label="Heat maps: where a relation shows",
                    visible=first.explains,
                    elem_id="heat",
                )
                with gradio.Accordion("Limits", open=False):
                    top_k = gradio.Slider(1, 60, value=12, step=1, label="Relations at most")
                    score = gradio.Slider(
                        0, 1, value=0, step=0.01, label="Least score of a relation"
                    )
                    entity_score = gradio.Slider(
                        0, 1, value=0.2, step=0.05, label="Least score of a found object"
                    )
            with gradio.Column(scale=5, min_width=480):
                result = gradio.HTML(
                    '<p class="empty">The graph appears here.</p>', elem_id="result", padding=False
                )
                files = gradio.File(label="Files", file_count="multiple", visible=False, height=150)
        dataset = gradio.Dataset(
            components=[gradio.Image(visible=False)],
            samples=[[str(example.file)] for example in examples],
            type="index",
            label="Examples",
            elem_id="examples",
        )
        gradio.Markdown(
            "The models that ship know drawn scenes only; on photographs, which have no annotated "
            "boxes here, they show how things work and little else. Models trained on Visual "
            "Genome with real CLIP weights are given with `--model`."
        )
        of_model = [box_part, word_part, predicates, objects, heat]
        inputs = [
            image,
            task,
            model,
            table,
            predicates,
            objects,
            top_k,
            score,
            entity_score,
            heat,
        ]
        options = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        task.change(show_task, task, [model, *of_model], api_visibility="private")
        model.input(show_model, [task, model], of_model, api_visibility="private")
        button.click(for_users(draw), inputs, [result, files], **options)
        find.click(for_users(find_boxes), image, table, **options)
        clear.click(lambda: [[None] * 4 + [""]], None, table, api_visibility="private")
        dataset.click(
            lambda index: (str(examples[index].file), examples[index].rows or [[None] * 4 + [""]]),
            dataset,
            [image, table],
            api_visibility="private",
        )
    return page


def _new_folder(folder: Path) -> Path:
    """Make a folder for the files of an answer, which Gradio copies; remove old ones."""
    for old in folder.glob("answer-*"):
        if time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="answer-", dir=folder))


def _given(image: str | None) -> str:
    if not image:
        raise ValueError("no image yet: upload one, or click an example")
    return image
