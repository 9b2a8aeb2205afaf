"""What can go wrong, and the exit code that says so.

AtlasError
├── UsageError            2   a user's mistake; the message names the item and the mend
│   ├── UnsupportedModel      a network that attribution maps are not defined for here
│   ├── UnsupportedMethod     a method that does not apply to this network
│   └── SpecMismatchError             an atlas exists that was planned otherwise
├── RunFailedError             1   the work ended, and some of it is missing or wrong
│   └── CorruptShardError                one shard cannot be used; the run goes on without it and fails at its end
└── StoppedEarlyError         75   interrupted; the same command goes on from here
"""

__all__ = [
    "AtlasError",
    "CorruptShardError",
    "RunFailedError",
    "SpecMismatchError",
    "StoppedEarlyError",
    "UnsupportedMethod",
    "UnsupportedModel",
    "UsageError",
]


class AtlasError(Exception):
    """Base of every error that a person is meant to read without a traceback."""

    exit_code = 1


class UsageError(AtlasError):
    """A user's mistake. The message is one sentence that names the item and the mend."""

    exit_code = 2


class UnsupportedModel(UsageError):
    """A network that this project cannot explain, with the reason."""


class UnsupportedMethod(UsageError):
    """A method that is not defined for this network, with the reason."""


class SpecMismatchError(UsageError):
    """An atlas stands where one was to be made, and was planned otherwise."""


class RunFailedError(AtlasError):
    """The work came to its end, but not all of it is there."""


class CorruptShardError(RunFailedError):
    """A shard that cannot be read as planned: truncated, changed, or not a shard."""


class StoppedEarlyError(AtlasError):
    """Interrupted before the end. What is committed stays; the same command does the rest."""

    exit_code = 75
