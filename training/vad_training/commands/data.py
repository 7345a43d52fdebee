"""`vad-train data`: import, convert, crop, split, augment, describe and check videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from vad_runtime.commands import FiniteFloat
from vad_runtime.contracts import InputError
from vad_training.commands.unflip import unflip
from vad_training.data.tools import KINDS, OPS

if TYPE_CHECKING:
    from vad_training.data.table import Entry, Split

_PATH = click.Path(path_type=Path)

_fps = click.option(
    "--fps",
    type=FiniteFloat(0, min_open=True),
    help="Frame rate of folders of frames, which do not say it. Default: 25.",
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace what is there.")
_group = click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NEW=OLD1,OLD2",
    help="Makes one class of several. May be repeated.",
)


@click.group()
def data() -> None:
    """Prepare footage for training: from a folder of videos to a table with splits.

    \b
    A table is a CSV file with the columns path, class, split and original:
      vad-train data convert raw -o videos        all to mp4, upright
      vad-train data csv videos -o all.csv        a video's folder is its class
      vad-train data check all.csv -o clean.csv   drops broken, doubled videos
      vad-train data split clean.csv -o split.csv --normal walking
      vad-train data augment split.csv -o more --copies 3
      vad-train data stats more/dataset.csv -o stats
    """  # noqa: D301 - \b is click's mark for text that is not to be wrapped


data.add_command(unflip)


@data.command("import")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("source", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Folder for dataset.csv, labels.json.")
@click.option(
    "--annotations",
    type=_PATH,
    help="ucf-crime: folder of Temporal_Anomaly_Annotation.txt and Anomaly_Train.txt, if they do "
    "not lie below SOURCE.",
)
@_group
@click.option(
    "--fps",
    type=FiniteFloat(0, min_open=True),
    help="Frame rate of folders of frames. Default: the data set's usual one.",
)
@click.option(
    "--decode",
    is_flag=True,
    help="Count the frames of every video by decoding it: slow, and certain even if a file says "
    "otherwise.",
)
def import_command(
    kind: str,
    source: Path,
    out: Path,
    annotations: Path | None,
    groups: tuple[str, ...],
    fps: float | None,
    decode: bool,
) -> None:
    """Read the folder SOURCE of a public data set of this KIND.

    Writes dataset.csv, which names every video with its class and split, and, where the data set
    says which frames are anomalous, labels.json. The videos stay where they are. ucsd is Ped1 or
    Ped2, avenue is CUHK Avenue; classes is any folder whose sub-folders are classes.
    """
    from vad_training.data.tools.entries import grouped, groups_from_options
    from vad_training.data.tools.importing import import_dataset, write_imported

    imported = import_dataset(kind, source, annotations=annotations, fps=fps, decode=decode)
    imported.entries = grouped(imported.entries, groups_from_options(groups))
    written = write_imported(imported, out)
    _say("Left out", imported.skipped)
    _say("Note", imported.notes)
    _say_counts(imported.entries)
    if imported.labels is not None:
        videos = imported.labels.videos.values()
        click.echo(
            f"labels of {len(videos)} videos: {sum(v.frames for v in videos)} frames, "
            f"{sum(int(v.mask().sum()) for v in videos)} anomalous ({imported.labels.label_set})"
        )
    click.echo(f"Written: {', '.join(str(file) for file in written)}")


@data.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Output folder, outside of FOLDER.")
@_overwrite
@_fps
def convert(folder: Path, out: Path, overwrite: bool, fps: float | None) -> None:
    """Convert every video below FOLDER (avi, mov, ...) to an H.264 mp4 of the same place in OUT.

    Films that ask their player to be rotated are rotated for good. Number of frames and their
    times stay; an odd last row or column and the sound are dropped. What is in OUT already is left
    alone, so an interrupted conversion goes on.
    """
    from vad_training.data.tools.convert import convert_folder

    done = convert_folder(folder, out, overwrite=overwrite, fps=fps)
    _say("Note", done.notes)
    _say("Not converted", done.broken)
    if done.with_sound:
        click.echo(f"Note: {done.with_sound} videos had sound, which is dropped", err=True)
    click.echo(
        f"{out}: {len(done.written)} converted, {len(done.skipped)} there already, "
        f"{len(done.broken)} not convertible"
    )
    if not done.written and not done.skipped:
        raise InputError(f"no video of {folder} could be converted. See the lines above.")


@data.command()
@click.argument("source", metavar="FOLDER|TABLE", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Output folder.")
@click.option("--side", type=click.IntRange(2), help="Side in pixels. Default: the shorter side.")
@click.option(
    "--offset",
    default="0,0",
    show_default=True,
    metavar="X,Y",
    help="Where the square lies: -1 left or top, 0 middle, 1 right or bottom.",
)
@_overwrite
@_fps
def square(
    source: Path, out: Path, side: int | None, offset: str, overwrite: bool, fps: float | None
) -> None:
    """Cut the largest square out of every video, as OUT/CLASS/NAME.mp4 and OUT/dataset.csv.

    The sound is dropped.
    """
    from vad_training.data.tools.entries import entries_of
    from vad_training.data.tools.square import square_videos

    x, y = _numbers(offset, 2, "--offset")
    done = square_videos(
        entries_of(source), out, side=side, offset=(x, y), overwrite=overwrite, fps=fps
    )
    _say("Left out", done.skipped)
    _say("Note", done.notes)
    click.echo(f"{done.table}: {len(done.entries)} square videos")


@data.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The table to write.")
@_group
@click.option("--min-seconds", type=FiniteFloat(0, min_open=True), help="Leave shorter ones out.")
@_fps
def csv(
    folder: Path, out: Path, groups: tuple[str, ...], min_seconds: float | None, fps: float | None
) -> None:
    """Write a table of every video below FOLDER; the folder that a video lies in is its class."""
    from vad_training.data.table import write_table
    from vad_training.data.tools.entries import (
        entries_from_folder,
        grouped,
        groups_from_options,
        long_enough,
    )

    entries = grouped(entries_from_folder(folder), groups_from_options(groups))
    if min_seconds is not None:
        entries, dropped = long_enough(entries, min_seconds, fps=fps)
        _say("Left out", dropped)
        if not entries:
            raise InputError(
                f"no video of {folder} lasts {min_seconds:g} s. Choose a smaller --min-seconds."
            )
    write_table(out, entries)
    _say_counts(entries)
    click.echo(f"Written: {out}")


@data.command()
@click.argument("source", metavar="TABLE|FOLDER", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="The table to write.")
@click.option(
    "--normal",
    multiple=True,
    metavar="CLASS",
    help="A class to train on; may be repeated. All other classes get the split anomaly, which "
    "training never sees. Without this, every class is divided.",
)
@click.option(
    "--fractions",
    default=".6,.2,.2",
    show_default=True,
    metavar="TRAIN,VAL,TEST",
    help="Shares of the three parts.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def split(source: Path, out: Path, normal: tuple[str, ...], fractions: str, seed: int) -> None:
    """Divide the videos into train, val, test and anomaly, each class by itself.

    An augmented clip always goes where its original goes, and equal files stay together, so that
    nothing that was trained on is ever tested on. Re-encoded copies are found by
    `vad-train data check`: run that first.
    """
    from vad_training.data.table import write_table
    from vad_training.data.tools.entries import entries_of
    from vad_training.data.tools.split import split_entries

    train, val, test = _numbers(fractions, 3, "--fractions")
    entries = split_entries(
        entries_of(source), normal=normal, fractions=(train, val, test), seed=seed
    )
    write_table(out, entries)
    _say_counts(entries)
    click.echo(f"Written: {out}")


@data.command()
@click.argument("table", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Output folder.")
@click.option(
    "--copies", type=click.IntRange(0), default=0, show_default=True, help="Copies of every clip."
)
@click.option(
    "--copies-of",
    multiple=True,
    metavar="CLASS=N",
    help="Another number of copies for this class. May be repeated.",
)
@click.option(
    "--balance",
    is_flag=True,
    help="Make more copies of the smaller classes, until all have as many clips as the largest.",
)
@click.option(
    "--only",
    type=click.Choice(["train", "val", "test", "anomaly", "none"]),
    multiple=True,
    default=["train"],
    show_default=True,
    help="Split to copy from; none = clips without a split. May be repeated.",
)
@click.option(
    "--ops",
    type=click.Choice(OPS),
    multiple=True,
    help="What may be done to a clip; may be repeated. Default: all of them.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@_overwrite
@_fps
def augment(
    table: Path,
    out: Path,
    copies: int,
    copies_of: tuple[str, ...],
    balance: bool,
    only: tuple[str, ...],
    ops: tuple[str, ...],
    seed: int,
    overwrite: bool,
    fps: float | None,
) -> None:
    """Make changed copies of the clips of TABLE: distorted, rotated, coloured, blurred.

    Every frame of a copy is changed in the same way, so its motion stays real. Writes
    OUT/CLASS/NAME_augN.mp4 and OUT/dataset.csv, which holds the originals too. The same seed gives
    the same copies.
    """
    from vad_training.data.tools.augment import augment_entries
    from vad_training.data.tools.entries import entries_of

    splits = tuple("" if name == "none" else name for name in only)
    done = augment_entries(
        entries_of(table),
        out,
        copies=copies,
        of_class=dict(_class_number(option) for option in copies_of),
        balance=balance,
        only=cast("tuple[Split, ...]", splits),
        ops=ops or OPS,
        seed=seed,
        overwrite=overwrite,
        fps=fps,
    )
    _say("Left out", done.skipped)
    for label, count in done.made.items():
        click.echo(f"{label}: {count} copies")
    click.echo(f"{done.table}: {len(done.entries)} clips, originals and copies")


@data.command()
@click.argument("source", metavar="TABLE|FOLDER", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Output folder.")
@click.option("--decode", is_flag=True, help="Count frames by decoding every video (slow).")
@_fps
def stats(source: Path, out: Path, decode: bool, fps: float | None) -> None:
    """Describe a data set: classes, splits, exact durations, frame rates, sizes, codecs.

    Writes videos.csv, counts.csv, summary.txt, durations.png and counts.png, and prints the
    summary.
    """
    from vad_training.data.tools.entries import entries_of
    from vad_training.data.tools.stats import stats_of, summary_of, write_stats

    found = stats_of(entries_of(source), fps=fps, decode=decode)
    files = write_stats(found, out)
    click.echo(summary_of(found))
    click.echo(f"Written: {', '.join(str(file) for file in files)}")


@data.command()
@click.argument("source", metavar="TABLE|FOLDER", type=_PATH)
@click.option("--frames", type=click.IntRange(1), default=16, show_default=True, help="Of a clip.")
@click.option("--stride", type=click.IntRange(1), default=2, show_default=True, help="Of a clip.")
@click.option(
    "--min-seconds",
    type=FiniteFloat(0, min_open=True),
    help="Shortest video, instead of --frames and --stride.",
)
@click.option("-o", "--out", type=_PATH, help="Writes a table without the videos found.")
@click.option("--strict", is_flag=True, help="Exit with 1 if anything was found.")
@_fps
@click.pass_context
def check(
    ctx: click.Context,
    source: Path,
    frames: int,
    stride: int,
    min_seconds: float | None,
    out: Path | None,
    strict: bool,
    fps: float | None,
) -> None:
    """Find videos that cannot be used, and say which and why.

    Every video is decoded. Found are: unreadable ones; those too short for one clip of FRAMES
    frames, STRIDE apart; duplicates (the same file, or the same pictures encoded again); and the
    same video in two classes.
    """
    from vad_training.data.table import write_table
    from vad_training.data.tools.check import check_entries
    from vad_training.data.tools.entries import entries_of

    entries = entries_of(source)
    span = (frames - 1) * stride + 1
    result = check_entries(entries, span=span, least_s=min_seconds, fps=fps)
    for line in dict.fromkeys(f"{p.kind}: {p.line}" for p in result.problems):
        click.echo(line)
    click.echo(f"{len(entries)} videos, {len(result.clean)} without a problem")
    if out is not None:
        if not result.clean:
            raise InputError(f"no video of {source} is left. Give better footage.")
        write_table(out, result.clean)
        click.echo(f"Written: {out}")
    if strict and result.problems:
        ctx.exit(1)


def _say(what: str, lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"{what}: {line}", err=True)


def _say_counts(entries: "Sequence[Entry]") -> None:
    from vad_training.data.tools.split import counts_table

    for label, counts in counts_table(entries):
        parts = ", ".join(
            f"{count} {split}" if split else f"{count}" for split, count in counts.items()
        )
        click.echo(f"{label}: {parts}")


def _numbers(text: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise InputError(f"{option} is {text!r}. Give {count} numbers with commas between them.")
    return numbers


def _class_number(option: str) -> tuple[str, int]:
    label, _, number = option.rpartition("=")
    if not label or not number.isdecimal():
        raise InputError(f"--copies-of is {option!r}. Write CLASS=N, for example fight=3.")
    return label, int(number)
