"""Kill commands at random times, repeat them, and compare the results with those of undisturbed commands.

    python experiments/kill_and_resume.py [COMMAND …] [--kills 100] [--seed 0] [--folder FOLDER]

Every command works on generated images with a tiny model, on a CPU, in a process that is forked from a warm one and
killed alone. Some start beside the results of an earlier command with other settings. A kill is SIGKILL, SIGTERM or
SIGINT once the process has used a random part of the CPU time of an undisturbed command, so that a busy machine does
not matter; some commands are killed twice. Commands that end before that do not count. Linux only.

After a kill, the files must be those of the earlier or of the new results, or lack the one that marks complete results
(mixed, if not). After a repetition, all must equal the undisturbed ones bit by bit (different, if not): tensors and
metadata of checkpoints, and the bytes of all other files except logs, training curves, and environment.json.
Temporary files and locks count as left over. The exit status is 1 if there is anything to report.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process and all others

PROCESSES = multiprocessing.get_context("forkserver")
COMMANDS = [f"tokenloc.commands.{name}" for name in ("train", "evaluate", "localize", "report", "export")]
PROCESSES.set_forkserver_preload(["lightning.pytorch", "onnxscript", "onnxruntime", "torch.export", *COMMANDS])
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TICKS = os.sysconf("SC_CLK_TCK")
IGNORED = ("logs", "training.png", "environment.json")

VIT = "{patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2, drop_path_rate: 0.3}"
DATA = ["--data.name", "scenes", "--data.options", "{size: 40, length: 8}"]
SPLITS = ["--data.val_split", "val", "--data.calibration_split", "val"]
MODEL = ["--model.backbone", "vit_tiny_patch16_224", "--model.pretrained", "false", "--model.backbone_options", VIT]
PLAN = ["--optimisation.epochs", "3", "--optimisation.batch_size", "2", "--optimisation.lr", "0.001"]
TRAIN = ["train", *DATA, *SPLITS, "--data.resize", "36", "--data.crop", "32", *MODEL, *PLAN, "--device", "cpu"]
TRAIN += ["--save_minutes", "0", "--out", "out"]  # a checkpoint after every step
PLAIN, CACHED = ["--model.method", "tscam"], ["--model.method", "lcar", "--data.cached_views", "2"]
TEST = ["--data.test_split", "test"]  # which takes most of the time
LOCALIZE = ["localize", "model.ckpt", "../images", "--out", "out", "--masks", "--overwrite", "--batch_size", "4"]
LOCALIZE += ["--format", "coco", "voc", "yolo", "csv", "label-studio"]


@dataclass(frozen=True)
class Job:
    """A command; the file, if any, that marks complete results; the arguments of an earlier command; and its weight."""

    words: list[str]
    marker: str
    earlier: list[str] | None = None
    weight: int = 1


JOBS = {
    **{f"train, {n} workers": Job([*TRAIN, *PLAIN, "--workers", str(n)], "", None, 4) for n in (0, 1, 2)},
    "train, cached features": Job([*TRAIN, *CACHED], "", None, 4),
    "train, cached features, 2 workers": Job([*TRAIN, *CACHED, "--workers", "2"], "", None, 2),
    "train and test": Job([*TRAIN, *PLAIN, *TEST], "metrics.json", None, 2),
    "evaluate": Job(["evaluate", "model.ckpt", "--out", "out"], "metrics.json", ["--threshold", "0.9"], 4),
    "evaluate, maps": Job(
        ["evaluate", "--maps", "../maps", *DATA, "--out", "out"], "metrics.json", ["--split", "val"], 3
    ),
    "calibrate": Job(["calibrate", "out/model.ckpt"], "model.ckpt", ["--split", "test"], 3),
    "localize": Job(LOCALIZE, "localizations.json", ["--threshold", "0.9"], 4),
    "report": Job(["report", "../evaluation", "--out", "out/report.html"], "report.html", ["--title", "earlier"], 3),
    "export": Job(["export", "model.ckpt", "--out", "out/m.onnx", "--overwrite"], "m.onnx", ["--maps", "all"], 1),
}


def act(words: list[str], folder: Path, log: Path) -> None:
    """Run a command in ``folder``, in this process; append what it prints to ``log``."""
    from tokenloc import cli

    multiprocessing.set_start_method("fork", force=True)  # of data loaders, as in a command of its own
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background jobs
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(cli.main(words))


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def run(words: list[str], folder: Path, log: Path, number: int = 0, seconds: float = 0.0) -> tuple[int, float]:
    """Run a command; return its exit status and CPU time. Send a signal once it has used so many ``seconds``."""
    process = PROCESSES.Process(target=act, args=(words, folder, log))
    process.start()
    used = 0.0
    while process.exitcode is None:
        used = max(used, cpu_seconds(process.pid or 0))
        if number and used >= seconds:
            os.kill(process.pid or 0, number)
            number = 0
        process.join(0.01)
    return process.exitcode, used


def repetition(words: list[str], folder: Path) -> list[str]:
    """Return the words that start a command, or continue its training."""
    return [*words, *(["--resume"] if (folder / "out/checkpoints/last.ckpt").is_file() else [])]


def contents(folder: Path) -> dict[str, str]:
    """Return the digests of all results below ``folder``."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder): path for path in files}
    return {str(name): digest(path) for name, path in named.items() if not set(name.parts) & set(IGNORED)}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a checkpoint, that of its values, without the state of callbacks (paths)."""
    known = hashlib.sha256()
    if path.suffix == ".ckpt" and not path.name.startswith("."):
        import torch

        content = torch.load(path, weights_only=True)
        for name, value in flattened({key: value for key, value in content.items() if key != "callbacks"}):
            known.update(name.encode())
            known.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    else:
        known.update(path.read_bytes())
    return known.hexdigest()


def flattened(value: object, name: str = "") -> list[tuple[str, object]]:
    """Return the leaves of nested dictionaries and lists, each with its name."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return [(name, value)]
    return [leaf for key, each in value.items() for leaf in flattened(each, f"{name}/{key}")]


class Bench:
    """The inputs, and the undisturbed results of each command, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        self.expected: dict[str, tuple[dict[str, str], dict[str, str], float]] = {}
        from tokenloc.data import create_dataset

        scenes = create_dataset("scenes", None, "test", size=(46, 33), length=12)
        (folder / "images").mkdir()
        for index in range(len(scenes)):
            scenes.image(index).save(folder / f"images/{index:03d}.png")
        (folder / "images/broken.png").write_bytes(b"no image")
        self._must([*TRAIN, *PLAIN], folder)
        shutil.copy(folder / "out/checkpoints/best.ckpt", folder / "model.ckpt")
        maps = ["evaluate", "model.ckpt", "--out", "evaluation", "--save_maps", "maps"]
        self._must(maps, folder)

    def _must(self, words: list[str], folder: Path) -> float:
        status, used = run(words, folder, self.log)
        if status not in (0, 1):  # 1: the broken image
            raise SystemExit(f"{' '.join(words)} fails; see {self.log}")
        return used

    def place(self, name: str, folder: Path) -> None:
        """Create a folder for a command, with the results of the earlier one."""
        (folder / "out").mkdir(parents=True)
        shutil.copy(self.folder / "model.ckpt", folder / ("out/model.ckpt" if name == "calibrate" else "model.ckpt"))
        if (job := JOBS[name]).earlier is None:
            return
        saved = self.folder / "earlier" / name
        if not saved.exists():
            self._must([*job.words, *job.earlier], folder)
            shutil.copytree(folder / "out", saved, symlinks=True)
        shutil.rmtree(folder / "out")
        shutil.copytree(saved, folder / "out", symlinks=True)

    def reference(self, name: str) -> tuple[dict[str, str], dict[str, str], float]:
        """Return the earlier and the undisturbed results of a command, and its CPU time."""
        if name not in self.expected:
            folder = self.folder / f"undisturbed {name}"
            self.place(name, folder)
            earlier = contents(folder / "out")
            used = self._must(JOBS[name].words, folder)
            self.expected[name] = earlier, contents(folder / "out"), used
        return self.expected[name]

    def trial(self, name: str, folder: Path, draw: random.Random) -> list[str]:
        """Kill a command once or twice and repeat it; return what happened: signals and findings."""
        earlier, expected, used = self.reference(name)
        self.place(name, folder)
        log, events, words = folder / "log.txt", list[str](), JOBS[name].words
        for _ in range(draw.choice((1, 1, 2))):
            number = draw.choice(SIGNALS)
            status, _ = run(repetition(words, folder), folder, log, number, draw.random() * used)
            if status not in (-number, 130):
                break  # it ended before, or Python ignored SIGINT, as it does in some callbacks
            events.append(number.name)
            if number == signal.SIGKILL:
                log.unlink(missing_ok=True)  # loader processes may still report that their parent is gone
            found, marker = contents(folder / "out"), JOBS[name].marker
            complete = marker in found and not list((folder / "out").glob("*.journal.jsonl"))
            if complete and not any(each.items() <= found.items() for each in (earlier, expected) if marker in each):
                events.append("mixed")
        status, _ = run(repetition(words, folder), folder, log)
        found = contents(folder / "out")
        events += ["left over"] * any(part.startswith(".") for path in found for part in Path(path).parts)
        events += ["different"] * (status not in (0, 1) or found != expected)
        printed = log.read_text(encoding="utf-8")
        events += ["traceback"] * (printed.count("Traceback") > printed.count("Exception ignored in"))
        return events


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"some of: {'; '.join(JOBS)}")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="a new folder, which is not removed")
    given = parser.parse_args()
    names = [name for name in given.commands or JOBS for _ in range(JOBS[name].weight)]
    draw, counts, start = random.Random(given.seed), dict[str, Counter[str]](), time.monotonic()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench, kills, trial = Bench(folder.resolve()), 0, 0
    while kills < given.kills:
        name, trial = draw.choice(names), trial + 1
        own = bench.folder / f"trial-{trial:03d}"
        events = bench.trial(name, own, draw)
        counts.setdefault(name, Counter()).update(events)
        killed = sum(event.startswith("SIG") for event in events)
        kills += killed
        print(f"{kills:4d}  {name}: {', '.join(events) or 'ended before'}  {own}", flush=True)
        if killed == len(events):
            shutil.rmtree(own)
    columns = ["SIGKILL", "SIGTERM", "SIGINT", "different", "mixed", "left over", "traceback"]
    print(f"\n| command | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for name in [name for name in JOBS if name in counts]:
        print(f"| {name} | {' | '.join(str(counts[name][column]) for column in columns)} |")
    total = sum(counts.values(), Counter[str]())
    print(f"| all | {' | '.join(str(total[column]) for column in columns)} |")
    print(f"\n{kills} kills, seed {given.seed}, {(time.monotonic() - start) / 60:.0f} minutes")
    bad = sum(total[column] for column in columns[3:])
    if not bad and given.folder is None:
        shutil.rmtree(folder)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
