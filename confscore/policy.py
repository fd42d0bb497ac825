"""The policy file: how scores are calibrated, and by what rule each category gets its threshold.

One YAML document, validated before anything is read; unknown keys are refused with the path of the key.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError, field_validator

from confscore.calibration import Method
from confscore.errors import ConfigError
from confscore.settings import Section, read_mapping
from confscore.words import printable

Share = Annotated[float, Field(gt=0, lt=1)]
Confidence = Annotated[float, Field(gt=0.5, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class MaxF1(Section):
    """The largest F1 of the labelled documents."""

    policy: Literal["max_f1"] = "max_f1"
    min_positives: Annotated[int, Field(ge=1)] = 10


class FBeta(Section):
    """The largest F_β: recall counts ``beta`` times as much as precision."""

    policy: Literal["f_beta"] = "f_beta"
    beta: Positive
    min_positives: Annotated[int, Field(ge=1)] = 10


class ExpectedCost(Section):
    """The smallest expected cost under the calibrated probabilities: flag where ``p >= c_FP / (c_FP + c_FN)``.

    Costs are those of a false and of a missed flag, beyond what a right decision costs (Elkan 2001, "The foundations of
    cost-sensitive learning").
    """

    policy: Literal["expected_cost"] = "expected_cost"
    false_positive: Positive
    false_negative: Positive


class PrecisionAtLeast(Section):
    """The most flags whose precision is at least this, with confidence."""

    policy: Literal["precision_at_least"] = "precision_at_least"
    precision: Share
    confidence: Confidence = 0.95


class RecallAtLeast(Section):
    """The fewest flags whose recall is at least this, with confidence."""

    policy: Literal["recall_at_least"] = "recall_at_least"
    recall: Share
    confidence: Confidence = 0.95


class ReviewBudget(Section):
    """As many documents a night as people can look at.

    Categories that take it from ``default`` share it: a document counts once, and all have one cut on the calibrated
    probability. ``nights`` is how many nights the score table is of; by default each run is one.
    """

    policy: Literal["review_budget"] = "review_budget"
    documents: Annotated[int, Field(ge=1)]
    nights: Annotated[int, Field(ge=1)] | None = None


class Fixed(Section):
    """A given threshold, on the score or on the calibrated probability."""

    policy: Literal["fixed"] = "fixed"
    threshold: Annotated[float, Field(ge=0, le=1)]
    of: Literal["score", "probability"] = "score"


Policy = MaxF1 | FBeta | ExpectedCost | PrecisionAtLeast | RecallAtLeast | ReviewBudget | Fixed
OnePolicy = Annotated[Policy, Field(discriminator="policy")]
_KINDS: dict[str, type[Section]] = {kind.model_fields["policy"].default: kind for kind in get_args(Policy)}


class PolicyFile(Section):
    """A whole policy file. ``default`` is for the categories that ``categories`` does not name."""

    calibration: Method = "hierarchical_platt"
    default: OnePolicy = MaxF1()
    categories: dict[str, OnePolicy] = Field(default_factory=dict)

    @field_validator("default", mode="before")
    @classmethod
    def _default_by_name(cls, value: object) -> object:
        return {"policy": value} if isinstance(value, str) else value

    @field_validator("categories", mode="before")
    @classmethod
    def _categories_by_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {code: {"policy": one} if isinstance(one, str) else one for code, one in value.items()}

    def of(self, code: str) -> Policy:
        """Return the policy of a category."""
        return self.categories.get(code, self.default)

    def sharing(self, codes: Sequence[str]) -> tuple[str, ...]:
        """Return the categories that share the review budget of ``default``; none where there is no such budget."""
        if not isinstance(self.default, ReviewBudget):
            return ()
        return tuple(code for code in codes if code not in self.categories)


def load_policy(path: str | Path, codes: Sequence[str]) -> PolicyFile:
    """Read a policy file.

    Parameters
    ----------
    path : str or Path
        A YAML file.
    codes : sequence of str
        The taxonomy's category codes.

    Raises
    ------
    ConfigError
        The file cannot be read, is not YAML, a key is unknown, missing or out of range, or a category is unknown.
    """
    tree = read_mapping(path, "policy", ", ".join(PolicyFile.model_fields))
    try:
        policy = PolicyFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(error)}") from None
    unknown = [code for code in policy.categories if code not in codes]
    if unknown:
        raise ConfigError(
            f"{path}: categories.{printable(unknown[0])} is no category of the score table; they are {', '.join(codes)}"
        )
    return policy


def _sentence(error: ValidationError) -> str:
    """Say the first problem as key: reason, with a near name for an unknown key."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    kind = next((_KINDS[part] for part in reversed(location) if part in _KINDS), PolicyFile)
    key = printable(".".join(part for part in location if part not in _KINDS))
    match problem["type"]:
        case "extra_forbidden":
            known = list(kind.model_fields)
            near = difflib.get_close_matches(location[-1], known, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
            return f"{key} is not a known key{hint}"
        case "missing":
            return f"{key} is missing"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{key}: has no known policy; they are {', '.join(_KINDS)}"
        case _:
            reason = problem["msg"].removeprefix("Value error, ")
            return f"{key}: {reason[:1].lower()}{reason[1:]} (got {problem['input']!r:.80})"
