"""The configuration of a run: the requested recipe, options and settings, as plain values."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from pyrovae.errors import InputError
from pyrovae.evaluation.json_files import decoded

FORMAT = 4
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
        values: the digest of the values of the data set. None for a `Dataset` that was given in Python.
        class_names: the names of the classes.
        scale: the number that the values of the data set were divided by: 255 for grey levels, else 1.
        run: the run's name, which its files bear: 8 hexadecimal digits.
        from_python: whether the data were given in Python, so that neither a name nor a file leads to them.
        begun_from: the checkpoint of another run at whose parameters this one began. Empty if none.
    """

    recipe: str
    options: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    about: dict[str, Any]
    files: dict[str, str]
    values: str | None
    class_names: list[str]
    scale: int
    run: str
    from_python: bool = False
    begun_from: str = ""

    def changed(self, **training: Any) -> Configuration:
        """Make a copy with other settings of the training."""
        return replace(self, training=self.training | training)

    def plain(self) -> dict[str, Any]:
        """Return the values as JSON holds them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def identity(self, free: Collection[str]) -> dict[str, Any]:
        """Return what a run must keep when it is resumed, and what its checkpoints were trained with.

        Args:
            free: the names of the options and settings that may change.

        Returns:
            Plain values, by names such as `options.likelihood`.
        """
        plain = self.plain()
        groups = {name: plain.pop(name) for name in ("options", "training", "data", "about")}
        single = {name: plain[name] for name in ("run", "recipe", "values", "class_names", "scale")}
        return single | {
            f"{group}.{name}": value
            for group, values in groups.items()
            for name, value in values.items()
            if name not in free
        }

    @classmethod
    def read(cls, text: bytes, path: Path) -> Configuration:
        """Read the content of a config.json.

        Args:
            text: the content.
            path: the file, for messages.

        Raises:
            InputError: another version wrote the file, or it is damaged.
        """
        return ConfigFile.read(text, path).config


class _Any(msgspec.Struct):
    """What every version has written."""

    config: dict[str, Any]
    format: int | None = None
    versions: dict[str, Any] = {}


class Session(msgspec.Struct):
    """How a run was begun, or resumed.

    Attributes:
        command: the command line.
        versions: the versions of Python and packages.
        git_commit: the commit of the package's checkout, if it runs from one.
        processes: the number of processes.
    """

    command: str
    versions: dict[str, str]
    git_commit: str | None
    processes: int


class ConfigFile(Session):
    """The content of a config.json.

    Attributes:
        config: the configuration.
        format: the number of the format.
        resumed: how the run was resumed, each time.
    """

    config: Configuration
    format: int = FORMAT
    resumed: list[Session] = []

    @classmethod
    def read(cls, text: bytes, path: Path) -> ConfigFile:
        """Read a config.json; see `Configuration.read`."""
        what = "a run's configuration"
        found = decoded(text, _Any, path, what)
        if found.format != FORMAT:
            raise InputError(_other_format(found, path))
        return decoded(text, cls, path, what)

    def text(self) -> bytes:
        """Return the file's content."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def _other_format(content: _Any, path: Path) -> str:
    version = content.versions.get("pyrovae", "0.1" if content.format is None else "another version")
    return (
        f"{path} was written by pyrovae {version}, in the format {content.format or 'of version 0.1'}, and "
        f"this version reads format {FORMAT} alone: train again, or use that version."
    )
