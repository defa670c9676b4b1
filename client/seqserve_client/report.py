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
from seqserve_client.on_invalid import OnInvalid
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
            _state(status),
            status.execution_provider,
            ", ".join(labels),
        )
        for status, labels in models
    ]
    if rows:
        print_table(columns, rows)
    else:
        print_lines("the server has no models", file=sys.stdout)


def print_versions(models: Iterable[ModelStatus], *, title: str | None = None) -> None:
    """Prints every version with its digest."""
    columns: list[tuple[str, Align]] = [
        ("model", "left"),
        ("version", "right"),
        ("state", "left"),
        ("execution provider", "left"),
        ("digest", "left"),
    ]
    rows = [
        (
            status.name,
            str(status.version),
            _state(status),
            status.execution_provider,
            status.digest[:12],
        )
        for status in models
    ]
    print_table(columns, rows, title=title)
    sys.stdout.flush()


def _state(status: ModelStatus) -> str:
    return status.state + (f": {status.message}" if status.message else "")


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
        document["accuracy"] = _accuracy(scored)
    document["answers"] = [
        {"id": sequence, "error": scored.refused[index]}
        if index in scored.refused
        else {
            "id": sequence,
            "label": answer.label,
            "probability": _shortest(answer.probabilities.max()),
            "probabilities": dict(
                zip(answer.labels, map(_shortest, answer.probabilities), strict=True)
            ),
        }
        for index, (sequence, answer) in enumerate(zip(dataset.ids, answers, strict=True))
    ]
    print_lines(json.dumps(document, ensure_ascii=False), file=sys.stdout)


def _print_csv(scored: Scored) -> None:
    ranks = _ranks(scored.answers)
    names = ["label", "probability"]
    names += [f"{name}_{rank}" for rank in range(2, len(ranks) + 1) for name in names]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    told = scored.on_invalid is OnInvalid.ANSWER_REST
    writer.writerow(["id", *names, *(["error"] if told else [])])
    for row, sequence in enumerate(scored.dataset.ids):
        if row in scored.refused:
            writer.writerow([sequence, *[""] * len(names), scored.refused[row]])
            continue
        pairs = ((labels[row], _shortest(values[row])) for labels, values in ranks)
        writer.writerow([sequence, *chain.from_iterable(pairs), *([""] if told else [])])
    sys.stdout.flush()


def _print_table(scored: Scored) -> None:
    ranks = _ranks(scored.answers)
    pair: list[tuple[str, Align]] = [("label", "left"), ("probability", "right")]
    rows = [
        [sequence, *["-"] * 2 * len(ranks)]
        if row in scored.refused
        else [
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
        _print_confusion(*_answered(scored), scored.dataset.classes, file)
    print_lines(*scored.refused.values(), file=sys.stderr)
    count = len(answers) - len(scored.refused)
    print_lines(
        f"{count} sequences in {scored.seconds:.3f} s, {count / scored.seconds:,.0f} sequences/s, "
        f"by {answers.model_name} version {answers.model_version}",
        file=sys.stderr,
    )
    figure = None if labels is None else _accuracy(scored)
    if figure is not None:
        print_lines(f"accuracy: {figure:.3f}", file=file)
    elif labels is None and with_confusion:
        print_lines("no confusion matrix: the file has no labels", file=sys.stderr)


def _answered(scored: Scored) -> tuple[list[str], list[str]]:
    """Labels and answers of the sequences that have one."""
    pairs = zip(scored.dataset.labels or (), scored.answers.labels, strict=False)
    kept = [pair for row, pair in enumerate(pairs) if row not in scored.refused]
    return [label for label, _ in kept], [answer for _, answer in kept]


def _accuracy(scored: Scored) -> float | None:
    """None where no sequence that has a label has an answer."""
    labels, answers = _answered(scored)
    return accuracy(labels, answers) if labels else None


def _print_confusion(
    labels: Sequence[str], answers: Sequence[str], classes: Sequence[str], file: TextIO
) -> None:
    names, counts = confusion(labels, answers, classes)
    columns: list[tuple[str, Align]] = [("", "left"), *((name, "right") for name in names)]
    rows = [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
    print_table(columns, rows, title="labels down, answers across", file=file)
    print_lines("", file=file)
