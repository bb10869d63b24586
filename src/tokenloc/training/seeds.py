"""One run for each of several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenloc.training.placement import choose_placement
from tokenloc.training.run_folder import RunFolder


def train_with_seeds(
    train: Callable[..., Path], settings: Mapping[str, Any], seeds: Sequence[int], check: Callable[..., object]
) -> list[RunFolder]:
    """Call ``train`` once with each seed, in OUT/seed-N; return the folders of the runs.

    With ``resume``, finished runs are skipped, interrupted ones resume, and the others start.

    Args:
        train: takes ``settings`` as keywords.
        settings: of the runs.
        seeds: different seeds.
        check: called with folder and settings of a finished run; raises if it was started with other settings.

    Raises:
        ValueError: if there is no seed, one is repeated, or several processes are requested.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds needs at least one seed and no seed twice; got {list(seeds)}")
    if choose_placement("cpu", settings["devices"], settings["nodes"]).world > 1:
        raise ValueError(
            "--seeds trains the runs one after the other in one process; start one command for each --seed"
        )
    folders = [RunFolder(settings["out"] / f"seed-{seed}") for seed in seeds]
    try:
        for seed, folder in zip(seeds, folders, strict=True):
            resume = settings["resume"] and folder.config.is_file()
            run = {**settings, "seed": seed, "out": folder.path, "resume": resume}
            if resume and folder.metrics.is_file():
                check(folder, run)
            else:
                train(**run)
    except KeyboardInterrupt as end:
        raise KeyboardInterrupt(f"{end}; to resume all seeds, repeat this command with --resume") from end
    return folders
