"""What can be exported and as what, without torch."""

PARTS = ("detector", "relations", "full")

# Format -> name of the file that holds it.
FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "torchscript": "model.ts"}
