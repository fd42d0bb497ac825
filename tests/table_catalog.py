"""An Iceberg catalog for the tests, configured as pyiceberg wants it: in the environment, before it is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

CATALOG = "testlake"
_PREFIX = f"PYICEBERG_CATALOG__{CATALOG.upper()}__"


def configure() -> None:
    """Keep the catalog in a folder of its own, which goes with this process; child processes find it too."""
    if f"{_PREFIX}URI" in os.environ:
        return
    lake = Path(tempfile.mkdtemp(prefix="confscore-lake-"))
    atexit.register(shutil.rmtree, lake, ignore_errors=True)
    os.environ |= {
        f"{_PREFIX}TYPE": "sql",
        f"{_PREFIX}URI": f"sqlite:///{lake}/catalog.db",
        f"{_PREFIX}WAREHOUSE": f"file://{lake}/warehouse",
    }
