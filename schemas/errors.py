"""Exceptions of the project and their exit codes.

AtlasError
├── UsageError             2   a mistake of the user; the message names the item and how to fix it
│   ├── UnsupportedModel       a model without a definition of attribution maps here
│   ├── UnsupportedMethod      a method that is not defined for this model
│   └── SpecMismatchError      the atlas exists and was planned with another spec
├── RunFailedError         1   the work ended, and some of it is missing or wrong
│   ├── CorruptShardError      one shard cannot be used; the run continues without it and fails at its end
│   └── ShardReplacedError     another commit replaced that of a shard while it was read; reading it again succeeds
└── StoppedEarlyError     75   interrupted; run the same command again to resume
"""

from collections.abc import Sequence

__all__ = [
    "AtlasError",
    "CorruptShardError",
    "RunFailedError",
    "ShardReplacedError",
    "SpecMismatchError",
    "StoppedEarlyError",
    "UnsupportedMethod",
    "UnsupportedModel",
    "UsageError",
]


class AtlasError(Exception):
    """Base class of all errors that are shown to the user without a traceback.

    Args:
        message: one sentence.
        details: further lines, such as one for each shard. They are apart, since a newline in the message may be one of
            the data.
    """

    exit_code = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(details))
        self.message, self.details = message, tuple(details)

    def __str__(self) -> str:
        return "\n  ".join((self.message, *self.details))


class UsageError(AtlasError):
    """A mistake of the user. The message is one sentence: the item, what is wrong, how to fix it."""

    exit_code = 2


class UnsupportedModel(UsageError):  # noqa: N818 – a name of the public contract
    """A model that cannot be explained, with the reason."""


class UnsupportedMethod(UsageError):  # noqa: N818 – named like UnsupportedModel
    """A method that is not defined for a model, with the reason."""


class SpecMismatchError(UsageError):
    """The atlas exists and was planned with another spec or other weights."""


class RunFailedError(AtlasError):
    """The work ended, and some of it is missing or wrong."""


class CorruptShardError(RunFailedError):
    """A shard that cannot be read as planned: truncated, changed, or not a tar."""


class ShardReplacedError(RunFailedError):
    """The commit of a shard was replaced while the shard was read. Both are complete; reading it again succeeds."""


class StoppedEarlyError(AtlasError):
    """The work was interrupted. Committed shards stay; the same command resumes."""

    exit_code = 75
