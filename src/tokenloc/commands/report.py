"""``tokenloc report``: the HTML report of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from tokenloc._files import refuse_unwritable, remove_partial_files, write_text
from tokenloc.commands.console import print_message, progress
from tokenloc.commands.datasets import open_data
from tokenloc.commands.runs import require_one_protocol
from tokenloc.data import ImageDataset
from tokenloc.data.base import shorten
from tokenloc.reporting.localized import LOCALIZATIONS, LocalizedRun, read_localized
from tokenloc.reporting.report import render_report
from tokenloc.reporting.runs import METRICS, Run, oracle_note, read_run

EVALUATIONS, DEFAULT = "evaluation", "standard"


def report(
    runs: list[Path],
    *,
    out: Path = Path("report.html"),
    evaluation: str | None = None,
    images: int | Literal["all"] | None = None,
    root: Path | None = None,
    title: str = "",
) -> Path:
    """Write one HTML file about one or several runs: metrics, curves, and images with boxes at any threshold.

    A folder of `tokenloc localize` gives a gallery of its images, without true boxes, the least confident first.

    Args:
        runs: folders of evaluations, or of runs with evaluations, on the same images under the same protocol; or one
            folder of `tokenloc localize`.
        out: the file to write; an existing one is replaced.
        evaluation: the evaluation to take from each run's folder; by default `standard`, or the only one.
        images: images in each gallery, or all for every image; by default 24, or 500 of `tokenloc localize`.
        root: the folder of the images, if they were moved since the evaluation.
        title: of the report; by default the names of the runs.
    """
    if isinstance(images, int) and images < 1:
        raise ValueError(f"images must be at least 1, or all, got {images}")
    refuse_unwritable(out.parent)
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; give the file to write, such as {out / 'report.html'}")
    remove_partial_files(out.parent, locked=False)
    evaluations, dataset, notes = _read(runs, evaluation, root)
    usual = 500 if isinstance(evaluations[0], LocalizedRun) else 24
    count = None if images == "all" else images or usual
    page = render_report(evaluations, dataset, images=count, title=title, notes=notes, progress=progress)
    for run in evaluations:
        run.require_unchanged()
    write_text(out, page)
    print_message(f"{out}: {decimal(out.stat().st_size)}")
    for note in [*notes, *(note for run in evaluations for note in run.notes)]:
        print_message(note)
    return out


def _read(
    runs: Sequence[Path], evaluation: str | None, root: Path | None
) -> tuple[Sequence[Run], ImageDataset | None, list[str]]:
    """Return evaluations of the same images, or one result of `tokenloc localize`; the images; notes for the reader."""
    if any((folder / LOCALIZATIONS).is_file() and not (folder / METRICS).is_file() for folder in runs):
        if len(runs) > 1:
            raise ValueError("a report of results of `tokenloc localize` is of one folder alone")
        localized = read_localized(runs[0], runs[0].absolute().name, root)
        return [localized], localized.dataset, []
    folders = [find_evaluation(folder, evaluation) for folder in runs]
    evaluations = [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    require_one_protocol(evaluations)
    for other in evaluations[1:]:
        _require_same_images(evaluations[0], other)
    dataset, notes = _open_images(evaluations, root)
    return evaluations, dataset, [*notes, *filter(None, [oracle_note(evaluations)])]


def find_evaluation(folder: Path, name: str | None = None) -> Path:
    """Return ``folder`` or, for a run's folder, its evaluation ``name``, else ``standard``, else the only one."""
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"{EVALUATIONS}/*/{METRICS}"))}
    own = (folder / METRICS).is_file()
    if name is not None and (found or not own):
        if name not in found:
            raise FileNotFoundError(f"{folder} has no evaluation {name!r}; it has: {shorten(list(found)) or 'none'}")
        return found[name]
    if DEFAULT in found or len(found) == 1:
        return found.get(DEFAULT) or next(iter(found.values()))
    if found:
        example = folder / EVALUATIONS / next(iter(found))
        choose = f"choose one with --evaluation NAME, or give its folder, such as {example}"
        raise ValueError(f"{folder} has several evaluations: {', '.join(found)}; {choose}")
    if not own:
        missing = f"no {METRICS} in it or in {EVALUATIONS}/NAME"
        raise FileNotFoundError(f"{folder} has no evaluation: {missing}; `tokenloc evaluate` writes it")
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """Return short names or, if these are not unique, paths.

    >>> _names([Path("runs/sat/evaluation/standard"), Path("runs/scm/evaluation/flip"), Path("runs/cam")])
    ['sat', 'scm, flip', 'cam']
    """
    names = []
    for folder in (folder.absolute() for folder in folders):
        evaluation = "" if folder.name == DEFAULT else f", {folder.name}"
        names.append(folder.parents[1].name + evaluation if folder.parent.name == EVALUATIONS else folder.name)
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _require_same_images(first: Run, other: Run) -> None:
    both = f"{first.name} and {other.name}"
    labels, other_labels = ({row["id"]: row["label"] for row in run.rows} for run in (first, other))
    differing = [id_ for id_ in {**labels, **other_labels} if labels.get(id_) != other_labels.get(id_)]
    if differing:
        raise ValueError(f"{both} have different images or classes ({shorten(differing)}): report each alone")
    if list(labels) != list(other_labels):
        raise ValueError(f"{both} have their images in different orders; evaluate one again")


def _open_images(runs: Sequence[Run], root: Path | None) -> tuple[ImageDataset | None, list[str]]:
    described = next((run.content["data"] for run in runs if run.content.get("data")), None)
    if described is None:
        return None, [f"{METRICS} does not name the dataset; evaluate again with `tokenloc evaluate`"]
    try:
        return open_data({**described, **({"root": str(root)} if root else {})}, None), []
    except (ValueError, OSError, KeyError, TypeError) as error:
        return None, [f"the images were not found ({error}); give their folder with --root FOLDER"]
