"""One typed configuration for Python, the command line and TOML files."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from tidegate.errors import ConfigError

# What pydantic says for programmers, in a person's words.
_WORDS = {
    "int_parsing": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "int_type": "a whole number is needed",
    "float_parsing": "a number is needed",
    "float_type": "a number is needed",
    "finite_number": "a finite number is needed",
    "string_type": "text is needed",
    "list_type": "a list is needed",
    "bool_parsing": "true or false is needed",
}


class Config(BaseModel):
    """Fields with defaults, limits and a description each; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False)

    @classmethod
    def make(cls, /, **fields: Any) -> Self:
        """Validate, with one sentence for a person when something is wrong.

        Raises
        ------
        ConfigError
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            raise ConfigError(explain(error, list(cls.model_fields))) from None

    def to_toml(self) -> str:
        """Every field that is set, as TOML (which has no null: a field left out is ``None``)."""
        return tomli_w.dumps({k: v for k, v in self.model_dump(mode="json").items() if v is not None})


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file as a dict.

    Raises
    ------
    ConfigError
        If the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; a configuration is a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def explain(error: ValidationError, known: list[str]) -> str:
    """Pydantic's report as one sentence that names the option and what was given."""
    parts = []
    for one in error.errors(include_url=False):
        name = ".".join(str(part) for part in one["loc"][:1]) or "options"
        if one["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
            parts.append(f"unknown option {name!r}{hint}")
        else:
            message = _WORDS.get(one["type"]) or one["msg"].removeprefix("Value error, ")
            message = message.replace("Input should be", "it must be", 1)
            given = "" if one["type"] == "value_error" else f"; given {one['input']!r}"
            parts.append(f"{name}: {message[:1].lower()}{message[1:]}{given}" if one["loc"] else message)
    first, *more = dict.fromkeys(parts)
    if len(more) > 2:
        more = [f"And {len(more)} more"]
    for part in more:
        first += (" " if first.endswith("?") else ". ") + part
    return first
