"""export training-set: labelled rows with recency weights, streamed into a file, or into a data set under a URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from app.commands import output
from app.commands.flags import ModelName
from app.commands.gateway import DATA_DIR, AsJson, DataDir, Gateway, TokenText, Url, UsageError, model_path

commands = typer.Typer(no_args_is_help=True, help="Data out of the gateway.")

FORMATS = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet", ".pq": "parquet"}


@commands.callback()
def group() -> None:
    """Data out of the gateway."""


@commands.command("training-set")
def training_set(
    model: ModelName,
    target: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="File, or URL of a directory (file://, s3://, gs://) for a partitioned data set of Parquet files "
            "[default: standard output]",
        ),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="parquet, csv or ndjson [default: by the name]")
    ] = None,
    half_life_days: Annotated[
        float | None, typer.Option(help="Age at which a row counts half", min=0.001)
    ] = None,
    flat_days: Annotated[float | None, typer.Option(help="Age up to which a row counts fully", min=0)] = None,
    since: Annotated[str | None, typer.Option(help="Only newer rows, RFC 3339")] = None,
    until: Annotated[str | None, typer.Option(help="Only older rows, RFC 3339")] = None,
    version: Annotated[
        str | None, typer.Option(help="Only what this version answered, weighted by how likely it was asked")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Repeat the export that said so: only what was received by then counts")
    ] = None,
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Labelled predictions with `sample_weight`, ready for training."""
    asked = {
        "half_life_days": half_life_days,
        "flat_days": flat_days,
        "since": since,
        "until": until,
        "version": version,
        "as_of": as_of,
    }
    if target is not None and "://" in target:
        if kind not in (None, "parquet"):
            raise UsageError(f"--format: a data set is written as parquet, not {kind!r}")
        with Gateway.at(url, token, data_dir) as gateway:
            _into_dataset(gateway, model, target, asked, as_json)
        return
    path = None if target is None else Path(target)
    kind = kind or (FORMATS.get(path.suffix.lower(), "ndjson") if path else "ndjson")
    if kind not in FORMATS.values():
        raise UsageError(f"--format: {kind!r} is not known; use parquet, csv or ndjson")
    if target is None and kind == "parquet" and sys.stdout.isatty():
        raise UsageError("parquet is not for a terminal; name a file with --output")
    if target is None and as_json:
        raise UsageError("--json reports on a file; name one with --output")
    with (
        Gateway.at(url, token, data_dir) as gateway,
        gateway.stream(model_path(model, "training-set"), **asked, format=kind) as reply,
    ):
        pieces = reply.iter_bytes()
        if path:
            pieces = output.counted(pieces, path.name)
        size = _into_file(path, pieces) if path else _into_stdout(pieces)
        stands = reply.headers.get("x-as-of")
    if as_json:
        output.emit({"file": str(target), "format": kind, "bytes": size, "as_of": stands})
    elif target:
        output.say(f"{target}: {size} bytes" + (f", as of {stands}" if stands else ""))


def _into_dataset(
    gateway: Gateway, model: str, target: str, asked: Mapping[str, object], as_json: bool
) -> None:
    from app.commands.dataset import Dataset  # pyarrow takes its time to load

    task = str(gateway.get(model_path(model))["configuration"]["task"])
    dataset = Dataset.at(target, task)
    with gateway.stream(model_path(model, "training-set"), **asked, format="ndjson") as reply:
        pieces = output.counted(reply.iter_bytes(), target)
        manifest = dataset.write(pieces, {**asked, "as_of": reply.headers.get("x-as-of")})
    if as_json:
        output.emit(manifest)
    else:
        output.say(f"{target}: {manifest['rows']} rows in {len(manifest['files'])} files")


def _into_file(target: Path, pieces: Iterator[bytes]) -> int:
    """The whole answer or no file: a part of a training set must not look like one."""
    temporary = target.with_name(f"{target.name}.part")
    try:
        with temporary.open("wb") as file:
            size = sum(file.write(piece) for piece in pieces)
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise UsageError(f"--output: {target}: {error.strerror}; name a file that can be written") from None
    finally:
        temporary.unlink(missing_ok=True)
    return size


def _into_stdout(pieces: Iterator[bytes]) -> int:
    size = sum(sys.stdout.buffer.write(piece) for piece in pieces)
    sys.stdout.buffer.flush()
    return size
