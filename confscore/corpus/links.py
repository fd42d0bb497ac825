"""Symbolic links in a corpus on a disk.

Whoever lists a folder follows them, wherever they lead: out of the folder that a configuration names, to the same file
a second time, or round in circles. So they are looked at before anything is listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from confscore.errors import CorpusError


def refuse_links(root: str, suffixes: Sequence[str], *, follow: bool) -> None:
    """Refuse links below a folder that would bring in what is not in it, or what is in it already.

    Parameters
    ----------
    root : str
        The folder; it may be a link itself. Names that start with ``_`` or ``.`` are left out, as by readers.
    suffixes : sequence of str
        Names of files that count.
    follow : bool
        Whether links may lead out of the folder.

    Raises
    ------
    CorpusError
        There is such a link.
    OSError
        The folder cannot be listed.
    """
    own = os.path.realpath(root)
    taken: dict[str, str] = {own: root}
    for link in _links(root, taken, follow=follow):
        target = os.path.realpath(link)
        if not os.path.exists(link):
            raise CorpusError(f"{link}: is a link that leads nowhere; remove it")
        if not os.path.isdir(target) and not link.lower().endswith(tuple(suffixes)):
            continue
        # Where a link leads is read in its place, so it must not be read in another one.
        again = next((known for known in taken if _overlap(known, target) and not _hidden(known, target)), None)
        if again is not None:
            raise CorpusError(
                f"{link}: is a link to {target}, and {taken[again]} is read too, so that documents would be read "
                "twice; remove the link"
            )
        if not follow:
            raise CorpusError(
                f"{link}: is a link that leads out of the corpus, to {target}; set input.follow_links to true if what "
                "is there belongs to it, or remove the link"
            )
        taken[target] = link


def _links(folder: str, taken: dict[str, str], *, follow: bool) -> Iterator[str]:
    """Yield the links below a folder, and below the folders that they lead to once they have been taken."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if entry.name[:1] not in ("_", ".")), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_symlink():
            yield entry.path
            if follow and entry.is_dir() and taken.get(os.path.realpath(entry.path)) == entry.path:
                yield from _links(entry.path, taken, follow=follow)
        elif entry.is_dir():
            yield from _links(entry.path, taken, follow=follow)


def _overlap(first: str, second: str) -> bool:
    """Say whether one of two real paths is the other or lies in it."""
    return os.path.commonpath([first, second]) in (first, second)


def _hidden(folder: str, path: str) -> bool:
    """Say whether a path lies in a folder under a name that readers leave out."""
    inside = os.path.relpath(path, folder)
    return not inside.startswith("..") and any(part[:1] in ("_", ".") for part in inside.split("/") if part != ".")
