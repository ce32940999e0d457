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
