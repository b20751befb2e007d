"""Files of torch that hold no weights: which of them are broken, and which hold more."""

import pickle
from pathlib import Path

import pytest
import torch

from vrd_d2.checkpoint.weights_files import read_tensors


@pytest.mark.parametrize(
    "content", [b"", b"P", b"model_final.pth", b"{}", b"\x00" * 99, b"\xff" * 99, b"(lp0\n."]
)
def test_what_is_no_file_of_torch_is_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(ValueError, match="broken") as raised:
        read_tensors(str(tmp_path / "m.pth"))
    assert "code" not in str(raised.value)


def test_objects_are_more_than_weights(tmp_path: Path) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": Path("x")}))
    torch.save({"model": Path("x")}, tmp_path / "zip.pth")
    for name in ("plain.pth", "zip.pth"):
        with pytest.raises(ValueError, match="code"):
            read_tensors(str(tmp_path / name))
