"""The YAML files of configs/: none builds on another that is itself a run, and no chain is long."""

from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


def bases(path: Path) -> list[Path]:
    found = yaml.safe_load(path.read_text()).get("_BASE_", [])
    found = [found] if isinstance(found, str) else found
    return [path.parent / base for base in found]


def levels(path: Path) -> int:
    """Files in the longest chain that begins with this one."""
    return 1 + max(map(levels, bases(path)), default=0)


@pytest.mark.parametrize("name", FILES)
def test_only_bases_are_built_on_and_chains_are_short(name: str) -> None:
    path = CONFIGS / name
    wrong = [base.name for base in bases(path) if not base.name.startswith(("Base-", "_"))]
    assert not wrong, f"{name} builds on a config of a run"
    assert levels(path) <= 3


def test_every_run_has_an_output_folder_of_its_own() -> None:
    folders = [
        yaml.safe_load((CONFIGS / name).read_text()).get("OUTPUT_DIR")
        for name in FILES
        if not Path(name).name.startswith(("Base-", "_"))
    ]
    assert None not in folders and len(set(folders)) == len(folders)
