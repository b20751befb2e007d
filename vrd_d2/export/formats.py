"""Writing of exportable modules as ONNX, torch.export program or TorchScript."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config as shape_config
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from vrd_d2.data.atomic_files import atomic_write, write_bytes
from vrd_d2.export.detector import ExportableDetector
from vrd_d2.onnx_runtime import METADATA_KEY

OPSET = 18
_LARGE = (
    1536 << 20
)  # bytes of weights from which on torch puts those of ONNX into a file of their own

# Dimensions that may differ from call to call, by input and by output.
_INPUT_SIZES = {
    "image": {1: "height", 2: "width"},
    "boxes": {0: "entities"},
    "classes": {0: "entities"},
}
_OUTPUT_SIZES = {"boxes": "entities", "classes": "entities", "scores": "entities"}


def example_inputs(names: list[str], *, num_classes: int) -> dict[str, Tensor]:
    """Return inputs to trace with: an image of odd size and a few boxes."""
    generator = torch.Generator().manual_seed(0)
    height, width, count = 243, 317, 5
    corners = torch.rand((count, 2, 2), generator=generator).sort(dim=1).values
    inputs = {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator),
        "boxes": (corners * torch.tensor([width, height])).reshape(count, 4),
        "classes": torch.randint(num_classes, (count,), generator=generator),
    }
    return {name: inputs[name] for name in names}


def write_model(
    module: nn.Module, path: Path, *, file_format: str, metadata: dict[str, Any]
) -> None:
    """Export a module and write it with its metadata.

    Args:
        module: exportable, with `inputs` and `outputs` (names), on the CPU.
        path: file to write.
        file_format: a key of FILES.
        metadata: of :func:`~vrd_d2.export.metadata.describe`; ONNX holds it as JSON in
            metadata_props["vrd_d2"], the others as an extra file "metadata.json".

    Raises:
        ValueError: unknown format, or the packages of the extra `export` are missing.
    """
    writers = {
        "onnx": _write_onnx,
        "torch_export": _write_torch_export,
        "torchscript": _write_torchscript,
    }
    if file_format not in writers:
        raise ValueError(f"unknown format {file_format!r}: choose one of {', '.join(writers)}")
    inputs = example_inputs(module.inputs, num_classes=len(metadata["objects"]))
    with torch.no_grad(), warnings.catch_warnings():
        # What tracing may get wrong (sizes turned into constants) is what the tests compare.
        for category in (torch.jit.TracerWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        writers[file_format](module.eval(), inputs, path, metadata)


def export_program(module: nn.Module, inputs: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """Run ``torch.export`` for images of any size and any number of boxes, 0 and 1 as well."""
    sizes = {
        name: torch.export.Dim(name, min=0 if name == "entities" else 1)
        for name in ("height", "width", "entities")
    }
    shapes = tuple(
        {axis: sizes[size] for axis, size in _INPUT_SIZES[name].items()} for name in inputs
    )
    # Else a size of 0 or 1 would be taken for another program than larger ones.
    with shape_config.patch(backed_size_oblivious=True):
        return torch.export.export(
            module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False
        )


def _write_torch_export(
    module: nn.Module, inputs: dict[str, Tensor], path: Path, metadata: dict[str, Any]
) -> None:
    program = export_program(module, inputs)
    # By way of memory: torch's own writer ends with other errors where the disk is full.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata)})
    write_bytes(path, content.getvalue())


def _write_onnx(
    module: nn.Module, inputs: dict[str, Tensor], path: Path, metadata: dict[str, Any]
) -> None:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ONNX needs the package {error.name}: pip install onnx onnxscript onnxruntime"
        ) from error
    names = {name: {axis: size for axis, size in _INPUT_SIZES[name].items()} for name in inputs}
    program = torch.onnx.export(
        export_program(module, inputs),
        dynamo=True,
        opset_version=OPSET,
        input_names=module.inputs,
        output_names=module.outputs,
        dynamic_shapes=tuple(names.values()),
        verbose=False,
    )
    for output in program.model.graph.outputs:
        size = _OUTPUT_SIZES.get(output.name, "pairs")
        output.shape = onnx_ir.Shape([size, *list(output.shape)[1:]])
    program.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    weights = [weight.const_value for weight in program.model.graph.initializers.values()]
    if (
        sum(weight.nbytes for weight in weights if weight is not None) > _LARGE
    ):  # then the weights go beside the file, which holds their name
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path)
        return
    with atomic_write(path) as unfinished:
        program.save(unfinished)


def _write_torchscript(
    module: nn.Module, inputs: dict[str, Tensor], path: Path, metadata: dict[str, Any]
) -> None:
    if isinstance(module, ExportableDetector):
        # Detectron2's code traces; it returns (boxes, classes, scores), by name.
        traced = torch.jit.trace(_stock_tracing(module, inputs["image"]), tuple(inputs.values()))
    else:
        traced = torch.jit.trace(module, tuple(inputs.values()), check_trace=False)
    content = io.BytesIO()
    torch.jit.save(traced, content, _extra_files={"metadata.json": json.dumps(metadata)})
    write_bytes(path, content.getvalue())


def _stock_tracing(module: ExportableDetector, image: Tensor) -> TracingAdapter:
    def detect(detector: nn.Module, batch: list[dict]) -> dict[str, Tensor]:
        found = detector.inference(batch, do_postprocess=False)[0]
        values = found.pred_boxes.tensor, found.pred_classes, found.scores
        return dict(zip(module.outputs, values, strict=True))

    return TracingAdapter(module.detector, [{"image": image}], detect)
