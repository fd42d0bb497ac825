"""Calibrate scores and choose thresholds: ``python jobs/fit_thresholds.py --scores … --labels … --out model.json``.

The same as ``confscore fit``, in a form that needs nothing but this folder. It needs no cluster either. The exit status
is that of ``confscore fit``: 0 done, 1 done, but labels do not support every threshold, 2 bad input, 3 it failed.
"""

import sys

from confscore.cli import app

if __name__ == "__main__":
    app(["fit", *sys.argv[1:]])
