"""Which scores are of one kind: what has to agree before labels, fits and score tables may be put together."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from confscore.errors import TableError
from confscore.manifest import Provenance
from confscore.words import printable

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Identity(BaseModel):
    """The part of a provenance that decides what a score means.

    How far a document was explored, on which engine and with which columns is left out: that changes a score by no more
    than its bounds say. A record of its own, so that a fit can be read whatever a provenance holds by then.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    guard: str
    guard_hash: str
    categories: dict[str, str]
    model: str
    model_hash: str | None
    revision: str | None
    tokenizer_hash: str
    prompt_hash: str
    procedure: str
    paper: dict[str, float] | None
    normalization: str
    long_documents: str


def identity_of(provenance: Provenance) -> Identity:
    """Return what decides the meaning of a table's scores."""
    return Identity.model_validate(provenance.model_dump())


def read_identity(where: str, provenance: object) -> Identity:
    """Return the identity in a provenance that was written as JSON.

    Raises
    ------
    TableError
        It is none; ``where`` says in which file.
    """
    try:
        return Identity.model_validate(provenance)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise TableError(
            f"{where}: its record of the scores lacks or does not allow {key}; it was written by another version of "
            "confscore"
        ) from None


def refuse_others(what: str, theirs: Identity, table: str, ours: Identity) -> None:
    """Refuse to put two kinds of scores together.

    Weights are the same where their hashes are, whatever their names.

    Parameters
    ----------
    what : str
        Of what ``theirs`` is, as the start of a sentence, such as ``labels.parquet was drawn``.
    theirs : Identity
    table : str
        The score table that ``ours`` is of.
    ours : Identity

    Raises
    ------
    TableError
        The message names the first thing that differs.
    """
    found = first_difference(theirs, ours)
    if found is not None:
        name, old, new = found
        raise TableError(f"{what} from scores with other {name}: {old}, where {table} has {new}")


def first_difference(theirs: Identity, ours: Identity) -> tuple[str, str, str] | None:
    """Return the first thing in which two kinds of scores differ: its name, and both values, in words."""
    same_weights = theirs.model_hash is not None and theirs.model_hash == ours.model_hash
    for name in Identity.model_fields:
        old, new = getattr(theirs, name), getattr(ours, name)
        if old == new or (same_weights and name in ("model", "revision")):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            key = next((key for key in [*old, *new] if old.get(key) != new.get(key)), None)
            old, new = (list(old), list(new)) if key is None else (_entry(old, key), _entry(new, key))
        return name.replace("_", " "), _shown(old), _shown(new)
    return None


def _entry(mapping: Mapping[str, object], key: str) -> str:
    return f"{key}: {mapping[key]}" if key in mapping else f"no {key}"


def _shown(value: object) -> str:
    text = f"{value}"
    return printable(f"{text[:12]}…" if _HASH.fullmatch(text) else text[:120])
