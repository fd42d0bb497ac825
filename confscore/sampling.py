"""Poisson samples with permanent random numbers, drawn in one pass. Pure maths on arrays.

What inclusion probabilities are made of is in :mod:`confscore.designs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from confscore.designs import GRID, Design
from confscore.rows import BoolArray, FloatArray

HashArray = npt.NDArray[np.uint64]
ObjectArray = npt.NDArray[np.object_]

_CERTAIN = 1 - 1e-12
"""An inclusion probability that differs from 1 by rounding alone."""


def hash_ids(doc_ids: ObjectArray, seed: int) -> HashArray:
    """Return a 64-bit hash of each id, shape (n,): SipHash with a key from the seed, the same in every process."""
    return pd.util.hash_array(doc_ids, hash_key=f"{seed:016x}", categorize=False)


def permanent_numbers(hashes: HashArray) -> FloatArray:
    """Return each document's permanent random number, in (0, 1), from its hash.

    It depends on the seed and the id alone (Ohlsson 1995, "Coordination of samples using permanent random numbers"), so
    that a sample does not depend on the order of rows or on how a table is cut into files, and samples of one seed over
    two nights share what they can.
    """
    numbers: FloatArray = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return numbers


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """A Poisson sample of n documents, in an order that tells nothing of their scores.

    Attributes
    ----------
    keys : object array, shape (n, K)
        What was given for each document.
    inclusion : float array, shape (n,)
        π.
    multiplier : float
        c.
    """

    keys: ObjectArray
    inclusion: FloatArray
    multiplier: float


class PoissonDraw:
    """Draws a Poisson sample in one pass, with memory for about twice the budget.

    A document is drawn if its permanent number u is below ``π = min(1, floor + c · size)``. c is known at the end only,
    where not all sizes are 1, but it falls with every document that comes: the c of the documents so far is an upper
    bound, and what is not drawn with that one never will be.

    Parameters
    ----------
    design : Design
        Made for this population.
    budget : int
        Documents that are to be drawn, on average.
    """

    def __init__(self, design: Design, budget: int) -> None:
        self._design, self._budget = design, budget
        self._documents = 0
        self._units = 0
        self._largest = np.zeros(0)
        self._keys: ObjectArray | None = None
        self._size, self._number = np.zeros(0), np.zeros(0)

    def add(self, keys: ObjectArray, sizes: FloatArray, numbers: FloatArray) -> None:
        """Take in n documents.

        Parameters
        ----------
        keys : object array, shape (n, K)
            What to remember of each.
        sizes : float array, shape (n,)
            From the design.
        numbers : float array, shape (n,)
            Permanent random numbers.
        """
        self._documents += len(sizes)
        if self._design.multiplier is None:
            self._units += int((sizes * GRID).astype(np.int64).sum())
            self._largest = _largest(np.concatenate([self._largest, sizes]), self._budget + 1)
        self._keys = keys if self._keys is None else np.concatenate([self._keys, keys])
        self._size = np.concatenate([self._size, sizes])
        self._number = np.concatenate([self._number, numbers])
        # A little more than the bound, so that rounding drops nobody.
        self._keep(self._number < self._inclusion(self._multiplier() * (1 + 1e-9)) + 1e-12)

    def finish(self) -> Drawn:
        """Return the sample."""
        multiplier = self._multiplier()
        self._keep(self._number < self._inclusion(multiplier))
        inclusion = self._inclusion(multiplier)
        # Given that a document was drawn, u / π is uniform on (0, 1), whatever π is.
        order = np.argsort(self._number / inclusion, kind="stable")
        keys = np.zeros((0, 1), dtype=object) if self._keys is None else self._keys[order]
        return Drawn(keys, inclusion[order], multiplier)

    def _keep(self, which: BoolArray) -> None:
        if self._keys is not None:
            self._keys = self._keys[which]
        self._size, self._number = self._size[which], self._number[which]

    def _inclusion(self, multiplier: float) -> FloatArray:
        inclusion = self._design.floor + multiplier * self._size
        return np.where(inclusion >= _CERTAIN, 1.0, inclusion)

    def _multiplier(self) -> float:
        if self._design.multiplier is not None:
            return self._design.multiplier
        return solve_multiplier(
            self._largest, self._units / GRID, self._documents, self._design.floor, float(self._budget)
        )


def solve_multiplier(largest: FloatArray, total: float, documents: int, floor: float, budget: float) -> float:
    """Return the c for which ``Σ_i min(1, floor + c · size_i)`` is the budget; inf where it cannot be reached.

    If the k largest are certain, ``c_k = (budget - k - floor (M - k)) / (Σ size - Σ_{k largest} size)``; the smallest k
    for which no other one gets above 1 is the right one.

    Parameters
    ----------
    largest : float array
        The largest sizes in falling order: more than ``budget`` of them, or all.
    total : float
        Σ size, each above 0.
    documents : int
        M.
    floor, budget : float
        As in the module's docstring.
    """
    if documents <= budget:
        return np.inf
    certain = np.arange(len(largest))
    rest = total - np.concatenate([[0.0], np.cumsum(largest)])[:-1]
    multipliers = (budget - certain - floor * (documents - certain)) / rest
    fits = floor + multipliers * largest <= 1
    return float(multipliers[np.argmax(fits)])


def _largest(values: FloatArray, count: int) -> FloatArray:
    if len(values) > count:
        values = -np.partition(-values, count - 1)[:count]
    falling: FloatArray = -np.sort(-values)
    return falling
