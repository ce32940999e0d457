"""What the estimators share: parameters as scikit-learn has them, and fields of one configuration."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

from tidegate.config import Config
from tidegate.errors import ConfigError, TidegateError


class NotFitted(TidegateError):
    """A method that needs a trained model was called before ``fit``."""


class Estimator:
    """An estimator whose constructor takes the fields of its configuration, by name.

    ``get_params``, ``set_params`` and ``clone`` work as in scikit-learn; fields are checked when
    they are set.
    """

    task: ClassVar[str]
    Config: ClassVar[type[Config]]

    def __init__(self, /, **options: Any) -> None:
        self._options = options
        self.config = self.Config.make(**options)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parameters = []
        for name, field in cls.Config.model_fields.items():
            default = field.get_default(call_default_factory=True)
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Every field of the configuration, as given or by default."""
        values = {name: getattr(self.config, name) for name in self.Config.model_fields}
        return values | self._options

    def set_params(self, **options: Any) -> Self:
        """Change fields; unknown ones are refused."""
        self.config = self.Config.make(**(self._options | options))
        self._options = self._options | options
        return self

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self._options)  # what a recipe has set is not given

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._options.items())})"

    def __sklearn_is_fitted__(self) -> bool:
        return getattr(self, "model_", None) is not None

    def _check_fitted(self, what: str) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFitted(f"{what} needs a trained model: call fit first, or load a run folder")


def as_names(name: str, value: str | list[str] | None) -> list[str]:
    """One column or several, as a list."""
    if value is None:
        return []
    names = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(one, str) for one in names):
        raise ConfigError(f"{name} is a column's name or a list of them; given {value!r}")
    return names
