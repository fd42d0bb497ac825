"""The nightly audit of a corpus: what it holds, what has changed, and whether somebody must act."""
