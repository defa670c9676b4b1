"""What the command line prints: answers, figures, models."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from seqserve_client.catalog import ModelStatus
from seqserve_client.classification import Classification
from seqserve_client.figures import accuracy, confusion
from seqserve_client.output import Output
from seqserve_client.scoring import Scored
from seqserve_client.tables import Align, print_table


def report(scored: Scored, output: Output, *, with_confusion: bool) -> None:
    """Prints the answers and, to a place where they do not mix with data, the figures."""
    if output is Output.JSON:
        _print_json(scored)
    elif output is Output.CSV:
        _print_csv(scored)
    elif output is Output.TABLE:
        _print_table(scored)
    for_people = output in (Output.TABLE, Output.SUMMARY)
    _print_figures(scored, sys.stdout if for_people else sys.stderr, with_confusion=with_confusion)


def print_models(models: Iterable[tuple[ModelStatus, Sequence[str]]]) -> None:
    """Prints every version with its labels."""
    columns: list[tuple[str, Align]] = [
        ("model", "left"),
        ("version", "right"),
        ("state", "left"),
        ("execution provider", "left"),
        ("labels", "left"),
    ]
    rows = [
        (
            status.name,
            str(status.version),
            status.state + (f": {status.message}" if status.message else ""),
            status.execution_provider,
            ", ".join(labels),
        )
        for status, labels in models
    ]
    if rows:
        print_table(columns, rows)
    else:
        print_lines("the server has no models", file=sys.stdout)


def print_lines(*lines: str, file: TextIO) -> None:
    """Prints lines at once, so that they keep their order among those of another stream."""
    file.writelines(line + "\n" for line in lines)
    file.flush()


def _print_json(scored: Scored) -> None:
    answers, dataset = scored.answers, scored.dataset
    document: dict[str, object] = {
        "model": answers.model_name,
        "version": answers.model_version,
        "digest": answers.model_digest,
    }
    if dataset.labels is not None:
        document["accuracy"] = accuracy(dataset.labels, answers.labels)
    document["answers"] = [
        {
            "id": sequence,
            "label": answer.label,
            "probability": _shortest(answer.probabilities.max()),
            "probabilities": dict(
                zip(answer.labels, map(_shortest, answer.probabilities), strict=True)
            ),
        }
        for sequence, answer in zip(dataset.ids, answers, strict=True)
    ]
    print_lines(json.dumps(document, ensure_ascii=False), file=sys.stdout)


def _print_csv(scored: Scored) -> None:
    ranks = _ranks(scored.answers)
    names = ["label", "probability"]
    names += [f"{name}_{rank}" for rank in range(2, len(ranks) + 1) for name in names]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["id", *names])
    for row, sequence in enumerate(scored.dataset.ids):
        pairs = ((labels[row], _shortest(values[row])) for labels, values in ranks)
        writer.writerow([sequence, *chain.from_iterable(pairs)])
    sys.stdout.flush()


def _print_table(scored: Scored) -> None:
    ranks = _ranks(scored.answers)
    pair: list[tuple[str, Align]] = [("label", "left"), ("probability", "right")]
    rows = [
        [
            sequence,
            *chain.from_iterable((labels[row], f"{values[row]:.4f}") for labels, values in ranks),
        ]
        for row, sequence in enumerate(scored.dataset.ids)
    ]
    print_table([("id", "left"), *pair * len(ranks)], rows)
    print_lines("", file=sys.stdout)


def _ranks(answers: Classification) -> list[tuple[Sequence[str], NDArray[np.float32]]]:
    """The labels and their probabilities, the best of every sequence first, then the second."""
    if not answers.top_labels:
        return [(answers.labels, answers.confidence)]
    by_rank = zip(*answers.top_labels, strict=True)
    return list(zip(by_rank, answers.probabilities.T, strict=True))


def _shortest(value: np.float32) -> float:
    """The number with the fewest digits that is the same float32."""
    return float(str(value))


def _print_figures(scored: Scored, file: TextIO, *, with_confusion: bool) -> None:
    answers, labels = scored.answers, scored.dataset.labels
    if labels is not None and with_confusion:
        _print_confusion(labels, answers, scored.dataset.classes, file)
    count = len(answers)
    print_lines(
        f"{count} sequences in {scored.seconds:.3f} s, {count / scored.seconds:,.0f} sequences/s, "
        f"by {answers.model_name} version {answers.model_version}",
        file=sys.stderr,
    )
    if labels is not None:
        print_lines(f"accuracy: {accuracy(labels, answers.labels):.3f}", file=file)
    elif with_confusion:
        print_lines("no confusion matrix: the file has no labels", file=sys.stderr)


def _print_confusion(
    labels: Sequence[str], answers: Classification, classes: Sequence[str], file: TextIO
) -> None:
    names, counts = confusion(labels, answers.labels, classes)
    columns: list[tuple[str, Align]] = [("", "left"), *((name, "right") for name in names)]
    rows = [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
    print_table(columns, rows, title="labels down, answers across", file=file)
    print_lines("", file=file)
