"""What every experiment does: run a training stage unless its result is there, and run many jobs in processes."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


def run_unless_done(recipe, run: Callable[..., Any], **given: Any) -> bool:
    """Run a stage of `training` into `recipe.output_dir`; False if that folder holds the result of this recipe.

    A stage that was stopped goes on from its checkpoint, and refuses that of another recipe.

    Args:
        run: `run_vqvae`, `run_pretrain` or `run_finetune`. given: its further arguments.
    """
    folder = Path(recipe.output_dir)
    if (folder / "training.json").is_file():  # written last
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))["recipe"]
        if found == json.loads(json.dumps(recipe.to_dict())):
            return False
    run(recipe, **given)
    return True


def run_all(
    job: Callable[..., Any], arguments: Sequence[tuple], workers: int, name: str, progress: bool = True
) -> None:
    """`job(*a)` for every `a` of `arguments`, `workers` at a time, in processes of their own if there are several."""
    from tqdm import tqdm

    with tqdm(total=len(arguments), desc=f"{name}s", unit=name, disable=not progress) as bar:
        if workers == 1 or len(arguments) <= 1:
            for each in arguments:
                job(*each)
                bar.update()
            return
        # An executor, not a Pool: it reports a worker that was killed (for memory, say); a Pool waits for ever.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(arguments)), mp_context=context) as pool:
            jobs = [pool.submit(job, *each) for each in arguments]
            try:
                for done in as_completed(jobs):
                    done.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
