"""What lies beside every checkpoint of every stage."""

import json
from pathlib import Path

from hf_vpdd.provenance import source_revision
from hf_vpdd.training import load_recipe
from hf_vpdd.training.best import METRICS
from hf_vpdd.training.checkpoints import list_checkpoints


def check_records(folder: Path, stage: str, dataset: str | None = None, seed: int = 0) -> None:
    """Resolved recipe, versions, git revision, fingerprint of the dataset and seed, in the run's folder and in each of
    its checkpoints; the recipe can be given to --config again.

    Args:
        dataset: fingerprint of the store; None: any.
    """
    summary = folder / "training.json"
    metrics = json.loads(summary.read_text())["metrics"] if summary.is_file() else {}
    assert METRICS[stage][0] in metrics, "what the best checkpoint is chosen by must be measured"
    checkpoints = list_checkpoints(folder)
    assert checkpoints, f"{stage} has written no checkpoint"
    for place in (folder, *checkpoints):
        record = json.loads((place / "run.json").read_text())
        assert record["stage"] == stage and record["seed"] == seed
        assert record["fingerprints"]["dataset"] == dataset or dataset is None and record["fingerprints"]["dataset"]
        assert record["git_revision"] == source_revision()
        assert {"hf_vpdd", "python", "torch", "transformers", "accelerate"} <= record["versions"].keys()
        again = load_recipe(stage, place / "recipe.yaml")
        assert again.train.seed == seed and again.to_dict() == record["recipe"]
