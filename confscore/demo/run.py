"""The demo from end to end: a generated corpus, its configuration, and what its scores look like.

It goes through the same files and the same command as any other job. Only the comparison with the truth at the
end is its own, because only here the truth is known.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from rich.table import Table
from sklearn.metrics import f1_score, roc_auc_score

from confscore import console
from confscore.demo import GUARD_FOLDER, GUARD_YAML
from confscore.demo.world import CODES, write_corpus
from confscore.errors import ConfigError
from confscore.score_table import open_table

SEED = 20261122
QUERY = (
    "SELECT date, count(*) AS documents, count(*) FILTER (p_S3 > 0.9) AS flagged, avg(p_S3) AS prevalence "
    "FROM read_parquet('{table}/**/*.parquet', hive_partitioning = true) GROUP BY date ORDER BY date"
)
QUANTILES = (0.5, 0.9, 0.99, 1.0)
_EXCERPT = 60


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where the demo keeps its files."""

    root: Path

    @property
    def corpus(self) -> Path:
        """Return the corpus: Parquet files in two date partitions."""
        return self.root / "corpus"

    @property
    def labels(self) -> Path:
        """Return the labels: what was drawn, and the probabilities it was drawn from."""
        return self.root / "labels.parquet"

    @property
    def guard(self) -> Path:
        """Return the guard's contract."""
        return self.root / "guard.yaml"

    @property
    def config(self) -> Path:
        """Return the job's configuration."""
        return self.root / "score.yaml"

    @property
    def scores(self) -> Path:
        """Return the score table."""
        return self.root / "scores"

    @property
    def fit(self) -> Path:
        """Return what is fitted to the labels."""
        return self.root / "model.json"

    @property
    def audit_config(self) -> Path:
        """Return the audit's configuration."""
        return self.root / "audit.yaml"

    @property
    def audit(self) -> Path:
        """Return what the audit keeps."""
        return self.root / "audit"


def prepare(out: Path, documents: int) -> DemoFolder:
    """Write the corpus, the labels, the guard and the configuration; an earlier demo there is replaced.

    Raises
    ------
    ConfigError
        ``out`` holds something that is not a demo.
    """
    folder = DemoFolder(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not folder.config.exists())):
        raise ConfigError(f"--out {out}: exists, and is not the folder of an earlier demo; choose another one")
    for old in (folder.corpus, folder.scores, folder.audit, *out.glob("scores.run-*")):
        shutil.rmtree(old, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    write_corpus(folder.corpus, documents, SEED, folder.labels)
    shutil.copyfile(GUARD_YAML, folder.guard)
    settings = {
        "input": {"path": str(folder.corpus), "id_column": "doc_id", "carry_columns": ["source"]},
        "guard": str(folder.guard),
        "model": {
            "source": str(GUARD_FOLDER),
            "engine_args": {
                "dtype": "float32",
                "max_model_len": 1024,
                "enforce_eager": True,
                "kv_cache_memory_bytes": 1 << 30,
            },
        },
        "scoring": {
            "tolerance": 0.01,
            "bounds": True,
            "estimators": ["marginal", "conditional", "joint", "greedy"],
        },
        "cluster": {"actors": 1, "gpus_per_actor": 0},
        "output": {"path": str(folder.scores), "partition_by": ["date"]},
    }
    folder.config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return folder


def show(folder: DemoFolder) -> None:
    """Print what the score table holds, and how it compares with the truth."""
    scores = open_table(str(folder.scores)).to_table().to_pandas()
    truth = pq.read_table(folder.labels).to_pandas()
    scored = scores[scores["status"] != "error"]
    residuals = ", ".join(f"{q:.0%} {scored['residual'].quantile(q):.4f}" for q in QUANTILES)
    console.say(f"Residual (widest certified bound of a document), quantiles: {residuals}")
    _show_most_confident(scored, folder)
    _show_agreement(scored.merge(truth, on="doc_id"))
    console.say("Every estimator against these labels, with intervals:")
    command = f"evaluate --scores {folder.scores} --labels {folder.labels} --label-column labels"
    confscore = os.path.relpath(Path(sys.executable).parent / "confscore")
    console.say(f"  {confscore} {command} --out {folder.root}/evaluation")
    query = QUERY.format(table=folder.scores)
    console.say(f"Score table: {folder.scores}. One query to try:")
    console.say(f"""  {os.path.relpath(sys.executable)} -c "import duckdb; duckdb.sql('''{query}''').show()" """)


def _show_most_confident(scored: pd.DataFrame, folder: DemoFolder) -> None:
    texts = pq.read_table(folder.corpus, columns=["doc_id", "text"]).to_pandas().set_index("doc_id")["text"]
    table = Table(title="the ten most confident documents", title_justify="left")
    for name in ("document", "answer", "p_max", "p_any", "residual", "text"):
        table.add_column(name, justify="right" if name in ("p_max", "p_any", "residual") else "left", no_wrap=True)
    for row in scored.nlargest(10, "p_max").to_dict("records"):
        figures = (f"{row[name]:.4f}" for name in ("p_max", "p_any", "residual"))
        table.add_row(row["doc_id"], ",".join(row["answer"]), *figures, f"{texts[row['doc_id']]:.{_EXCERPT}}…")
    console.console().print(table)


def _show_agreement(joined: pd.DataFrame) -> None:
    """Compare scores with the labels that were drawn, and with the probabilities they were drawn from."""
    labels = np.array([[code in named for code in CODES] for named in joined["labels"]])
    probs = joined[[f"p_{code}" for code in CODES]].to_numpy()
    known = joined[[f"prob_{code}" for code in CODES]].to_numpy()
    console.say(
        f"Against the labels of {len(joined):,} documents (in brackets: of the probabilities they were drawn from):"
    )
    for name, average in (("micro", "micro"), ("macro", "macro")):
        f1, best_f1 = (f1_score(labels, which > 0.5, average=average, zero_division=0) for which in (probs, known))
        auc, best_auc = (roc_auc_score(labels, which, average=average) for which in (probs, known))
        console.say(f"  {name} F1 at 0.5: {f1:.4f} ({best_f1:.4f})   {name} AUC: {auc:.4f} ({best_auc:.4f})")
    console.say(f"  mean |p - P(category | text)|: {np.abs(probs - known).mean():.4f}")
