"""Audit a corpus: ``ray job submit --working-dir . -- python jobs/nightly_audit.py --config CONFIG``.

The same as ``confscore audit``, in a form that needs nothing but this folder on the cluster. The exit status is that of
``confscore audit``: 0 ok, 1 warn, 2 fail, 3 the audit itself failed.
"""

import sys

from confscore.cli import app

if __name__ == "__main__":
    app(["audit", *sys.argv[1:]])
