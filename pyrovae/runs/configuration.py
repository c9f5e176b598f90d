"""The configuration of a run: the requested recipe, options and settings, as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pyrovae.errors import InputError

FORMAT = 2
"""The number of the format of config.json. Version 0.1 wrote none."""


@dataclass(frozen=True)
class Configuration:
    """The requested recipe, options and settings of a training, as plain values.

    Args:
        recipe: the recipe's name, such as `m2` or `mine.py:build`. Empty for a plan without a recipe.
        options: the recipe's options by name.
        training: the settings of the training by name.
        data: the settings of the data by name.
        about: the facts about the data that the model was built for.
        files: the SHA-256 of each of the user's own files, by the given name, such as `mine.py:build`.
    """

    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def changed(self, **training: Any) -> Configuration:
        """Make a copy with other settings of the training."""
        return replace(self, training=self.training | training)

    def plain(self) -> dict[str, Any]:
        """Return the values as JSON holds them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def read(cls, text: bytes, path: str) -> Configuration:
        """Read the content of a config.json.

        Args:
            text: the content.
            path: the file's path, for messages.

        Raises:
            InputError: version 0.1 wrote the file, or it is damaged.
        """
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or "config" not in content:
                raise ValueError("it holds no configuration")
            if content.get("format") != FORMAT:
                raise InputError(_other_format(content, path))
            values = content["config"]
            expected = {f.name for f in fields(cls)}
            if not isinstance(values, dict) or values.keys() != expected:
                raise ValueError(f"its parts must be {', '.join(sorted(expected))}")
            if not isinstance(values["recipe"], str):
                raise ValueError("the recipe is not a string")
            for name in expected - {"recipe"}:
                if not isinstance(values[name], dict):
                    raise ValueError(f"{name} is not a table of values by name")
        except (ValueError, UnicodeDecodeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read as a run's configuration: {error}.") from error
        return cls(**values)


def _other_format(content: dict[str, Any], path: str) -> str:
    versions = content.get("versions")
    version = versions.get("pyrovae") if isinstance(versions, dict) else None
    if "format" not in content:
        return (
            f"{path} was written by pyrovae {version or '0.1'}, in the format of version 0.1, which this "
            "version does not read: train again, or use pyrovae 0.1."
        )
    return (
        f"{path} has the format {content['format']!r} of pyrovae {version or 'another version'}; this "
        f"version reads format {FORMAT}: use that version, or train again."
    )
