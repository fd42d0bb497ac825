"""YAML files of users: plain values, every key once, and one kind of error for whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Hashable

import yaml

from confscore.words import one_line

_MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


class NotYaml(Exception):
    """A text is no YAML of plain values; the message says why, in one line."""


class PlainLoader(yaml.SafeLoader):
    """Makes nothing but plain values, and refuses a key that is given twice: the first one would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """Return a mapping as a dictionary."""
        if isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if (key.tag, key.value) in seen:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"the key {key.value!r} is given twice", key.start_mark
                        )
                    seen.add((key.tag, key.value))
        found: dict[Hashable, object] = super().construct_mapping(node, deep)
        return found


def load_yaml(text: str, loader: type[PlainLoader] = PlainLoader) -> object:
    """Return the value of a YAML document.

    Raises
    ------
    NotYaml
        It is none, has a key twice, or its aliases multiply beyond measure.
    """
    try:
        value: object = yaml.load(text, Loader=loader)
    except RecursionError:
        raise NotYaml("it is nested too deeply") from None
    except Exception as error:  # a tag such as !!int makes the loader raise whatever its conversions raise
        raise NotYaml(one_line(str(error)) or type(error).__name__) from None
    if _size(value, {}, set()) > _MOST_VALUES:
        raise NotYaml(f"its aliases stand for more than {_MOST_VALUES:,} values")
    return value


def _size(value: object, known: dict[int, int], within: set[int]) -> int:
    """Return how many values a value consists of, aliases written out; more than the most where it contains itself."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) in within:
        return _MOST_VALUES + 1
    if id(value) not in known:
        within.add(id(value))
        parts = [*value, *value.values()] if isinstance(value, dict) else [*value]
        known[id(value)] = 1 + sum(_size(part, known, within) for part in parts)
        within.remove(id(value))
    return known[id(value)]
