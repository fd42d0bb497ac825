"""What an audit keeps, and how a night appears in it whole or not at all.

::

    <output>/index.html                      all nights, newest first
    <output>/nights/<night>/<audit id>/      report.html, report.json, flags, sample and sample_scores as .parquet
    <output>/nights/<night>.json             the night's record; with it the night is audited
    <output>/scores/<kind>/                  score tables, one for each kind of scores; only where the audit scores

The record is written last, in one piece. A folder that no record names is what a start left that was killed; the next
one over the same night writes it again. A night that is audited again gets another folder, and the record turns to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pyarrow import fs
from pydantic import ValidationError

from confscore.audit.record import NightRecord
from confscore.corpus.files import make_folder, resolve
from confscore.corpus.stores import in_words
from confscore.errors import JobError, TableError
from confscore.fitted import write_file

NIGHTS = "nights"
SCORES = "scores"
INDEX = "index.html"


def below(folder: str, name: str) -> str:
    """Return the local path or address of something in a folder; an address keeps its options at its end."""
    place, mark, options = folder.partition("?") if "://" in folder else (folder, "", "")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


@dataclass(frozen=True, slots=True)
class Lake:
    """The audit's folder.

    Attributes
    ----------
    output : str
        Local or an address.
    """

    output: str

    @property
    def filesystem(self) -> fs.FileSystem:
        """Return its filesystem."""
        return resolve(self.output)[0]

    @property
    def root(self) -> str:
        """Return its path there."""
        return resolve(self.output)[1].rstrip("/")

    def place(self, name: str) -> str:
        """Return the local path or address of something in it."""
        return below(self.output, name)

    def read_records(self) -> list[NightRecord]:
        """Return the records of all audited nights, oldest first.

        Raises
        ------
        TableError
            One cannot be read.
        """
        selector = fs.FileSelector(f"{self.root}/{NIGHTS}", allow_not_found=True)
        found = []
        for info in self.filesystem.get_file_info(selector):
            if info.is_file and info.base_name.endswith(".json") and info.base_name[0] not in "._":
                try:
                    with self.filesystem.open_input_stream(info.path) as stream:
                        found.append(NightRecord.model_validate_json(stream.read()))
                except (OSError, ValidationError) as error:
                    reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else in_words(error)
                    raise TableError(f"{info.path}: is no readable record of an audited night: {reason}") from None
        return sorted(found, key=lambda record: record.night)

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the audit, whole or not at all.

        Raises
        ------
        JobError
            It cannot be written.
        """
        self.make_folder(name.rpartition("/")[0])
        write_file(self.place(name), content, "output")

    def make_folder(self, name: str) -> None:
        """Make a folder where files need one.

        Raises
        ------
        JobError
            It cannot be made.
        """
        try:
            make_folder(self.filesystem, f"{self.root}/{name}")
        except OSError as error:
            raise JobError(f"output {self.output}: cannot be written to: {in_words(error)}") from None

    def commit(self, record: NightRecord) -> None:
        """Make a night audited; everything else of it is written."""
        self.write(f"{NIGHTS}/{record.night}.json", record.model_dump_json(indent=1).encode())

    def refresh_index(self, page: bytes) -> None:
        """Write the list of nights, unless it is there already as it would be written."""
        path = f"{self.root}/{INDEX}"
        if self.filesystem.get_file_info(path).is_file:
            with self.filesystem.open_input_stream(path) as stream:
                if stream.read() == page:
                    return
        self.write(INDEX, page)

    def keep_nights(self, records: Sequence[NightRecord], most: int, also: Collection[str] = ()) -> list[str]:
        """Remove the pages, samples and flags of all but the last nights, and of those in ``also``.

        Returns which nights' were removed.

        Records stay, because trends and baselines rest on them and a night without one would be audited again. Scores
        stay too.
        """
        filesystem, removed = self.filesystem, []
        for record in sorted(records, key=lambda record: record.night)[:-most]:
            if record.night in also:
                continue
            folder = f"{self.root}/{NIGHTS}/{record.night}"
            if filesystem.get_file_info(folder).type == fs.FileType.Directory:
                filesystem.delete_dir(folder)
                removed.append(record.night)
        return removed

    def has_page(self, record: NightRecord) -> bool:
        """Say whether a night's page is still kept."""
        return bool(self.filesystem.get_file_info(f"{self.root}/{record.folder}/report.html").is_file)
