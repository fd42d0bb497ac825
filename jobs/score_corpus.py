"""Score a corpus: ``ray job submit --working-dir . -- python jobs/score_corpus.py --config CONFIG``.

The same as ``confscore score``, in a form that needs nothing but this folder on the cluster. The exit status is
that of ``confscore score``: 0 done, 1 done with failed rows, 2 bad input or configuration, 3 the job failed.
"""

import sys

from confscore.cli import app

if __name__ == "__main__":
    app(["score", *sys.argv[1:]])
