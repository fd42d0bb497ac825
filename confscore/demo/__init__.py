"""The demo: a small world of documents whose probabilities are known, and a small guard trained on it."""

from pathlib import Path

GUARD_FOLDER = Path(__file__).parent / "guard"
"""The small guard's model folder: weights, tokenizer and chat template."""

GUARD_YAML = Path(__file__).parent / "guard.yaml"
"""The small guard's contract."""
