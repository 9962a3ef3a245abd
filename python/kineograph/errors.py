"""The exceptions of the library. Each says where, what was expected and what was found."""

from typing import Any

__all__ = [
    "Error",
    "ConfigError",
    "FormatError",
    "CheckpointError",
    "ArgumentError",
    "IoError",
    "UpstreamError",
    "Cancelled",
    "CommunicationError",
]


class Error(Exception):
    """Base of every exception that kineograph raises.

    Attributes:
        where: the file, key, tensor or argument at fault.
        expected, found, hint: the parts of the message; empty where a message has another form.
    """

    where: str
    expected: str
    found: str
    hint: str

    def __init__(self, message: str, where: str = "", expected: str = "", found: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.where, self.expected, self.found, self.hint = where, expected, found, hint

    def __reduce__(self) -> "tuple[Any, ...]":
        return type(self), (self.args[0], self.where, self.expected, self.found, self.hint)


class ConfigError(Error, ValueError):
    """A configuration that is unknown, inconsistent or out of range."""


class FormatError(Error, ValueError):
    """A file whose bytes are not what its format says."""


class CheckpointError(Error, ValueError):
    """A checkpoint whose tensors do not fit the configuration."""


class ArgumentError(Error, ValueError):
    """An argument of the wrong shape, dtype or range."""


class IoError(Error, OSError):
    """A file that cannot be opened, read, written or renamed."""

    def __str__(self) -> str:
        return str(self.args[0])


class Cancelled(Error):
    """A call that its ``on_progress`` ended by returning False. What it was to write is undefined."""


class CommunicationError(Error, RuntimeError):
    """Processes that share a call cannot reach each other, or one of them has failed."""


class UpstreamError(Error, ImportError):
    """A version of diffusers without a class that native forwards stand for."""
