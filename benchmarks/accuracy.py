"""Test accuracy on japanese-vowels with the defaults, by seed, one way and both ways."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from benchmarks import harness
from benchmarks.harness import Spread
from seqserve_data import Dataset, bundled_test, read
from seqserve_export.config import TrainingConfig
from seqserve_export.training import train

DATA = "japanese-vowels"
DIRECTIONS = {"one way (default)": False, "both ways": True}


@dataclass(frozen=True)
class Figures:
    """What one training run came to."""

    seed: int
    head: str
    input_noise: float
    held_out_accuracy: float
    test_accuracy: float
    test_loss: float
    temperature: float
    seconds: float


def main() -> None:
    """Trains, prints and writes results/accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs in each direction")
    seeds = parser.parse_args().seeds
    data, test = read(DATA), read(bundled_test(DATA) or DATA)
    rows, results = [], {}
    for name, bidirectional in DIRECTIONS.items():
        runs = list(_runs(data, test, seeds, bidirectional))
        accuracy = Spread.of([run.test_accuracy for run in runs])
        seconds = Spread.of([run.seconds for run in runs])
        results[name] = {
            "test_accuracy": accuracy,
            "seconds": seconds,
            "runs": [asdict(run) for run in runs],
        }
        by_seed = " ".join(f"{run.test_accuracy:.4f}" for run in runs)
        heads = " ".join(run.head for run in runs)
        rows.append([name, f"{accuracy.median:.4f}", by_seed, heads, seconds])
    harness.write("accuracy", results)
    harness.show(
        f"Test accuracy on {DATA} with the defaults",
        ["direction", "median", "by seed", "heads chosen", "seconds"],
        rows,
    )


def _runs(data: Dataset, test: Dataset, seeds: int, bidirectional: bool) -> Iterator[Figures]:
    for seed in range(seeds):
        config = TrainingConfig(bidirectional=bidirectional, seed=seed)
        trained = train(data, config, test=test)
        training = trained.training
        yield Figures(
            seed=seed,
            head=training.settings["head"],
            input_noise=float(training.settings["input-noise"]),
            held_out_accuracy=training.validation.accuracy,
            test_accuracy=training.test.accuracy,
            test_loss=training.test.loss,
            temperature=float(trained.network.temperature),
            seconds=training.seconds,
        )


if __name__ == "__main__":
    main()
