"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout: configs/, tools/ and datasets/ are below it."""
    return REPOSITORY


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of small real data (Visual Genome pictures, VRD annotations, evaluator cases)."""
    folder = Path(os.environ.get("VRD_D2_SAMPLES", REPOSITORY / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"sample data not found at {folder}: set VRD_D2_SAMPLES to its folder")
    return folder
