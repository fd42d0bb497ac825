"""The corpus: files of any kind in, uniform rows out.

:func:`open_corpus` looks at names, footers and headers only, and refuses what could not be scored; a
:class:`RowReader` then reads one part at a time, wherever it is sent. Both use pyarrow filesystems, so a path
may be local or an ``s3://``, ``gs://`` or ``abfs://`` address with credentials from the environment.
"""

from __future__ import annotations

from confscore.corpus.files import CorpusFile, resolve
from confscore.corpus.formats import Part
from confscore.corpus.opening import Corpus, open_corpus
from confscore.corpus.reader import ROW_KEY, RowReader

__all__ = ["ROW_KEY", "Corpus", "CorpusFile", "Part", "RowReader", "open_corpus", "resolve"]
