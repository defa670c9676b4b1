"""`seqserve train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from seqserve.v1.manifest_pb2 import Training
    from seqserve_data import Columns, Dataset
    from seqserve_export.config import TrainingConfig

_DATA, _NETWORK, _OPTIMISATION, _RUN = "Data", "Network", "Optimisation", "Run"

_INTERRUPTED = 130


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A file (.parquet, .csv, .npz, .jsonl, .ts), or japanese-vowels, or random."
        ),
    ],
    model: Annotated[str, typer.Option(help="The model's name in the repository.")],
    repository: Annotated[
        Path, typer.Option(help="Model repository; created when missing.")
    ] = Path("models"),
    max_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the longest sequence a server may accept.",
            show_default="8 times the longest training sequence, at least 1024",
        ),
    ] = None,
    admit_non_finite: Annotated[
        bool,
        typer.Option(
            "--admit-non-finite",
            help="A server may accept NaN and infinities; by default it refuses them.",
        ),
    ] = False,
    test: Annotated[
        str | None,
        typer.Option(
            help="A file to test the model by; no choice sees it.",
            show_default="a bundled set's own",
            rich_help_panel=_DATA,
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|SHARE",
            help="A file to choose by, or the share of DATA to hold out, such as 0.2.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    id: Annotated[
        str | None, typer.Option(help="Column of the sequence's id.", rich_help_panel=_DATA)
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Column to sort the steps by.", rich_help_panel=_DATA)
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the class.", rich_help_panel=_DATA)
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Columns of the features, with commas between.",
            show_default="all others",
            rich_help_panel=_DATA,
        ),
    ] = None,
    cell: Annotated[
        Literal["lstm", "gru", "rnn", "rnn-tanh", "rnn-relu"],
        typer.Option(help="Recurrent cell; rnn is rnn-tanh.", rich_help_panel=_NETWORK),
    ] = "lstm",
    hidden_size: Annotated[
        int, typer.Option(help="Features of the hidden state.", rich_help_panel=_NETWORK)
    ] = 64,
    num_layers: Annotated[
        int, typer.Option(help="Stacked recurrent layers.", rich_help_panel=_NETWORK)
    ] = 1,
    bias: Annotated[
        bool, typer.Option(help="Cells with bias weights.", rich_help_panel=_NETWORK)
    ] = True,
    bidirectional: Annotated[
        bool, typer.Option(help="Each layer also runs backwards.", rich_help_panel=_NETWORK)
    ] = False,
    proj_size: Annotated[
        int,
        typer.Option(help="Size of an LSTM's projected state; 0: none.", rich_help_panel=_NETWORK),
    ] = 0,
    head: Annotated[
        Literal["last", "mean", "max"] | None,
        typer.Option(
            help="What the outputs are reduced to.",
            show_default="chosen; last where --auto is off",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    auto: Annotated[
        bool | None,
        typer.Option(
            help="Choose head and schedule by validation, as far as they are not given.",
            show_default="on below 5,000 sequences without --head, --epochs, --optimizer and "
            "--learning-rate",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    optimizer: Annotated[
        Literal["adamw", "adam"] | None,
        typer.Option(
            help="AdamW, one cycle, regularised; or Adam, constant, as in a textbook.",
            show_default="adamw",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate; with adamw its peak.",
            show_default="0.01 or 0.003, chosen; 0.003 where --auto is off; with adam 0.001",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Sequences an update.",
            show_default="8 to 256, by the data's size",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training set.",
            show_default="as --updates",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(
            help="Optimiser steps.",
            show_default="1,000 to 10,000, by the data's size",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a lower validation loss before training stops; 0: never.",
            show_default="a quarter of the epochs, at least 5",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            help="Probability of dropping a layer's output.",
            show_default="0.2; with adam 0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    input_dropout: Annotated[
        float | None,
        typer.Option(
            help="Probability of dropping a feature of a step.",
            show_default="0.2 or 0, chosen; with adam 0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    input_noise: Annotated[
        float | None,
        typer.Option(
            help="Noise on features, in their standard deviations.",
            show_default="0.6 or 0, chosen; with adam 0",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(
            help="Weight decay.", show_default="0.01; with adam 0", rich_help_panel=_OPTIMISATION
        ),
    ] = None,
    clip_norm: Annotated[
        float | None,
        typer.Option(
            help="Largest norm of the gradient; 0: any.",
            show_default="1",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = None,
    class_weights: Annotated[
        bool,
        typer.Option(
            "--class-weights/--no-class-weights",
            help="Weigh every class alike, however many examples it has.",
            rich_help_panel=_OPTIMISATION,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of every random choice.", rich_help_panel=_RUN)] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Where to train.", rich_help_panel=_RUN),
    ] = "auto",
    threads: Annotated[
        int,
        typer.Option(help="CPU threads; 1 gives the same sums everywhere.", rich_help_panel=_RUN),
    ] = 1,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run's checkpoints.",
            show_default="checkpoints/MODEL",
            rich_help_panel=_RUN,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in the folder.", rich_help_panel=_RUN),
    ] = False,
    unless_published: Annotated[
        bool,
        typer.Option(
            "--unless-published",
            help="Do nothing where the repository has a version of the model.",
            rich_help_panel=_RUN,
        ),
    ] = False,
) -> None:
    """Train a classifier on labelled sequences, prove its conversion to ONNX and publish it."""
    from seqserve.errors import ContractError

    if unless_published and (published := _published(repository, model)):
        typer.echo(f"{published} is published: nothing to train")
        return

    from seqserve_data import Columns, DataError, split_names
    from seqserve_export.config import TrainingConfig
    from seqserve_export.errors import ExportError, InvalidSettings
    from seqserve_export.run_folder import RUNNING

    try:
        _train_and_publish(
            data,
            TrainingConfig(
                cell="rnn-tanh" if cell == "rnn" else cell,
                hidden_size=hidden_size,
                num_layers=num_layers,
                bias=bias,
                dropout=dropout,
                bidirectional=bidirectional,
                proj_size=proj_size,
                head=head,
                input_noise=input_noise,
                input_dropout=input_dropout,
                batch_size=batch_size,
                optimizer=optimizer,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                epochs=epochs,
                updates=updates,
                patience=patience,
                class_weights=class_weights,
                clip_norm=clip_norm,
                seed=seed,
                device=device,
                threads=threads,
                auto=auto,
            ),
            Columns(id, order, label, split_names(features)),
            test=test,
            validation=validation,
            checkpoints=checkpoints or Path("checkpoints") / model,
            resume=resume,
            repository=repository,
            model=model,
            max_steps=max_steps,
            admit_non_finite=admit_non_finite,
            unless_published=unless_published,
        )
    except (ExportError, DataError, ContractError) as error:
        typer.echo(f"seqserve train: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, InvalidSettings) else 1) from error
    except KeyboardInterrupt:
        saved = (checkpoints or Path("checkpoints") / model) / RUNNING
        goes_on = (
            "the same command with --resume goes on" if saved.exists() else "nothing was saved"
        )
        typer.echo(f"seqserve train: stopped; {goes_on}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _train_and_publish(
    source: str,
    config: TrainingConfig,
    columns: Columns,
    *,
    test: str | None,
    validation: str | None,
    checkpoints: Path,
    resume: bool,
    repository: Path,
    model: str,
    max_steps: int | None,
    admit_non_finite: bool,
    unless_published: bool,
) -> None:
    from rich.console import Console

    from seqserve_data import bundled_test, read
    from seqserve_export.progress import Display
    from seqserve_export.publish import check_target, check_writable, publish
    from seqserve_export.run_folder import FINAL
    from seqserve_export.training import train

    check_target(repository, model, None)  # before the work, not after it
    check_writable(repository, model)
    test = test or bundled_test(source)
    with Display(Console()) as display:
        trained = train(
            read(source, columns),
            config,
            validation=None if validation is None else _held_out(validation, columns),
            test=read(test, columns) if test else None,
            checkpoints=checkpoints,
            resume=resume,
            observer=display,
        )
    typer.echo(_accuracies(trained.training))
    typer.echo(f"saved {checkpoints / FINAL}")
    if unless_published and (other := _published(repository, model)):
        typer.echo(f"{other} has been published meanwhile: nothing to publish")
        return
    published = publish(
        trained, repository, model, max_steps=max_steps, admit_non_finite=admit_non_finite
    )
    typer.echo(published.describe())


def _published(repository: Path, model: str) -> Path | None:
    """The newest version's folder; one without a manifest is none."""
    from seqserve import artifact

    folders = [
        repository / model / str(version) for version in artifact.versions(repository, model)
    ]
    return next((f for f in reversed(folders) if (f / artifact.MANIFEST_FILE).is_file()), None)


def _held_out(validation: str, columns: Columns) -> Dataset | float:
    """A share, or the set in a file."""
    from seqserve_data import read

    try:
        return float(validation)
    except ValueError:
        return read(validation, columns)


def _accuracies(training: Training) -> str:
    # Without a validation set its place is taken by the folds that choices were made by.
    held_out = "validation" if "validation" in training.settings else "held out"
    sets = {"train": training.train, held_out: training.validation, "test": training.test}
    figures = [
        f"{name} {figures.accuracy:.4f} ({figures.sequences} sequences)"
        for name, figures in sets.items()
        if figures.sequences
    ]
    return (
        f"trained {training.updates} updates in {training.seconds:.1f} s; accuracy: "
        + ", ".join(figures)
    )
