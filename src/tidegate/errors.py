"""The errors a person meets. Each carries one clear sentence: what is wrong, where, and what to do."""

from __future__ import annotations


class TidegateError(ValueError):
    """Base of the errors below; the command line prints its sentence and leaves with a non-zero exit code."""


class DataError(TidegateError):
    """A table, or a value in it, that cannot be used."""


class ConfigError(TidegateError):
    """Options that are wrong or do not go together."""


class RunError(TidegateError):
    """A run folder that is damaged or of another kind."""


class InterchangeError(TidegateError):
    """A model of another framework that cannot be read, or one of ours that its format cannot say."""


class MissingExtra(TidegateError, ImportError):
    """A feature whose packages are an extra that is not installed."""
