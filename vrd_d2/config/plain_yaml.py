"""The one reader of YAML: plain values, of a size and depth that configs have."""

from typing import Any

import yaml

_DEEPEST = 20  # levels
_MOST = 100_000  # values; references count as often as they are used


def read_yaml(text: str, source: object) -> Any:
    """Read a YAML text of plain values.

    Args:
        source: the file that it comes from, for messages.

    Raises:
        ValueError: it is no YAML, holds more than plain values, has a key twice, or is nested too
            deeply or far too large (also by references to itself).
    """
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        if "constructor for the tag" in str(error.problem):
            raise ValueError(
                f"{source} holds more than plain values, which is not read because it could run "
                f"any code ({error.problem}): write the values themselves"
            ) from error
        raise ValueError(f"{source} is no config: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{source} is no config: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2020-13-45 is no date
        raise ValueError(f"{source} is no config: {error}") from error


class _PlainLoader(yaml.SafeLoader):
    """Refuses a key that a section has twice: of the two, one would be ignored silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise ValueError(
                        f"line {key.start_mark.line + 1} has the key {key.value} for the second "
                        "time: keep one of the two"
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_size(root: yaml.Node) -> None:
    """Raise ValueError for nodes that are nested too deeply, or too many once copied."""
    todo, count = [(root, 1)], 0
    while todo:
        node, level = todo.pop()
        count += 1
        if level > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
        if count > _MOST:
            raise ValueError(f"it has more than {_MOST} values")
        if isinstance(node, yaml.MappingNode):
            todo += [(part, level + 1) for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            todo += [(part, level + 1) for part in node.value]
