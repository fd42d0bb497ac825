"""The result of a fit: one readable JSON document, from which scores become probabilities and flags.

It holds numbers and text only, and is a record of its own: what a policy or a provenance looks like in later versions
of confscore does not change how it is read. A new form of it gets a new version, and this one is read for ever.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from confscore.corpus.files import resolve
from confscore.curves import Curve
from confscore.errors import InputError, TableError
from confscore.identity import Identity
from confscore.words import one_line

FORMAT = "confscore.fit"
VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelCounts(_Record):
    """The labels that a fit rests on.

    ``effective_documents`` is Kish's effective size of the weights, ``documents`` itself where they are equal.
    """

    path: str
    sha256: str
    documents: int
    effective_documents: float
    weighted: bool


class ScoreTable(_Record):
    """The scores that a fit rests on: scored documents and runs of the table at the time."""

    path: str
    documents: int
    runs: tuple[str, ...]


class QualityRecord(_Record):
    """See :class:`confscore.reliability.Quality`."""

    log_loss: float
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    ece: float


class BeforeAfter(_Record):
    """Of the scores, clipped as they are for calibration, and of probabilities from curves of other labels."""

    before: QualityRecord
    after: QualityRecord


class Interval(_Record):
    """A share of labelled documents and its 95 % interval."""

    value: float
    low: float
    high: float


class FittedCategory(_Record):
    """The curve and the threshold of one category.

    Attributes
    ----------
    outcome : {'threshold', 'nothing', 'abstained'}
        There is a threshold; no document is to be flagged; or the labels do not support the policy's target.
    threshold : float or None
        Flag where the score is at least this. It is a float32 number, as scores are.
    probability : float or None
        The calibrated probability at the threshold.
    guarantee : str or None
        What a target with a confidence rests on.
    reason, more_positives
        Why there is no threshold, and how many more positive labels would suffice, from a larger sample of the kind.
    flagged_at_most : int or None
        Documents of the score table from the threshold on; counted in narrow bins, so a few may be too many.
    precision, recall : Interval or None
        Of the labelled documents at the threshold. Those that chose it are among them, so they flatter a policy without
        a confidence.
    """

    code: str
    name: str
    positives: int
    negatives: int
    curve: Curve
    policy: dict[str, JsonValue]
    outcome: Literal["threshold", "nothing", "abstained"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    probability: float | None = None
    guarantee: str | None = None
    reason: str | None = None
    more_positives: int | None = None
    flagged_at_most: int | None = None
    precision: Interval | None = None
    recall: Interval | None = None
    quality: BeforeAfter


class FittedModel(_Record):
    """A whole fit. ``scales`` are those of a hierarchical calibration."""

    format: Literal["confscore.fit"] = "confscore.fit"
    version: Literal[1] = 1
    created_at: str
    versions: dict[str, str]
    identity: Identity
    scores: ScoreTable
    labels: LabelCounts
    policy_sha256: str
    calibration: str
    scales: dict[str, float] | None
    quality: BeforeAfter
    categories: tuple[FittedCategory, ...]

    def dump(self) -> str:
        """Return it as JSON; :func:`load_model` reads it back to an equal one."""
        return self.model_dump_json(indent=2) + "\n"

    @property
    def abstained(self) -> tuple[str, ...]:
        """Return the categories that have no threshold for want of labels."""
        return tuple(each.code for each in self.categories if each.outcome == "abstained")


def load_model(path: str) -> FittedModel:
    """Read the result of a fit.

    Raises
    ------
    InputError
        There is no such file.
    TableError
        It is no fit, or one of a later version.
    """
    content = read_file(path, "no such file; confscore fit writes it")
    try:
        return FittedModel.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if key == "version":
            raise TableError(
                f"{path}: is a fit of version {problem['input']}, and this confscore reads version {VERSION}"
            ) from None
        where = f"{key}: " if key else ""
        raise TableError(f"{path}: is no result of confscore fit: {where}{one_line(problem['msg'])}") from None


def read_file(path: str, missing: str = "no such file") -> bytes:
    """Return the bytes of a local file or an address.

    Raises
    ------
    InputError
        There is none, or it cannot be read.
    """
    filesystem, inner = resolve(path)
    try:
        with filesystem.open_input_stream(inner, compression=None) as stream:
            content: bytes = stream.read()
    except FileNotFoundError:
        raise InputError(f"{path}: {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {one_line(str(error))}") from None
    return content


def write_file(path: str, content: bytes, option: str = "--out") -> None:
    """Write a file, so that it appears whole or not at all; what was there is replaced.

    Raises
    ------
    InputError
        It cannot be written.
    """
    filesystem, inner = resolve(path)
    try:
        with filesystem.open_output_stream(f"{inner}.partial") as stream:
            stream.write(content)
        filesystem.move(f"{inner}.partial", inner)
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written to: {one_line(str(error))}") from None


def digest(content: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
