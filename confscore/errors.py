"""The exception tree. Each leaf says what a person has to change.

Messages are one sentence that names the path, column, key or row and what to do about it; the command line
prints them without a traceback and turns the class into the exit code.
"""


class ConfscoreError(Exception):
    """Base of every error that confscore raises on purpose."""

    exit_code = 3


class InputError(ConfscoreError):
    """Something handed to confscore is wrong and was refused before any model was loaded."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key is unknown, missing or out of range."""


class CorpusError(InputError):
    """A corpus path, file or column cannot be read as configured."""


class GuardError(InputError):
    """A guard is malformed, or cannot work with the model's tokenizer."""


class TableError(InputError):
    """A score table is missing, incomplete, or is not a score table."""


class JobError(ConfscoreError):
    """The job started and could not be finished."""


class StoreError(JobError):
    """A store stopped answering, or no longer accepts the credentials; starting again goes on from there."""


class EngineError(JobError):
    """An engine could not be started, or stopped answering."""


class RowError(ConfscoreError):
    """One document cannot be scored; it becomes an ``error`` row and the job goes on."""
