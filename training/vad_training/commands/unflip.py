"""`vad-train data unflip`."""

from pathlib import Path

import click

from vad_runtime.commands import FiniteFloat
from vad_runtime.contracts import InputError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--out", type=_PATH, required=True, help="Output folder, outside of FOLDER.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option(
    "--fps",
    type=FiniteFloat(0, min_open=True),
    help="Frame rate of folders of frames, which do not say it. Default: 25.",
)
def unflip(folder: Path, out: Path, overwrite: bool, fps: float | None) -> None:
    """Turn frames that stand on their head back again, in every video below FOLDER.

    For benchmarks that flip a part of their frames, from fixed cameras: a frame that looks more
    like the background upside down than like the background was flipped. Each video
    becomes OUT/ITS FOLDER/NAME.mp4; OUT/flipped.csv names the frames that were turned.
    """
    import csv

    import numpy as np

    from vad_runtime.contracts import SourceError
    from vad_runtime.files import made_folder, whole_file
    from vad_runtime.progress import progress
    from vad_runtime.sources import find_sources
    from vad_training.data.table import Entry, folder_of
    from vad_training.data.tools.entries import named_targets, require_new
    from vad_training.data.tools.unflip import unflip as unflip_video

    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out} lies in {folder}. Choose an output folder outside of it.")
    sources = find_sources(folder)
    entries = [Entry(path=source, label=folder_of(source).name) for source in sources]
    targets = named_targets(entries, out)
    require_new([*targets, out / "flipped.csv"], overwrite, sources)
    made_folder(out)
    lines: list[tuple[str, int]] = []
    failed = 0
    with progress("turning, videos", len(sources)) as bar:
        for source, target in zip(sources, targets, strict=True):
            try:
                done = unflip_video(source, target, fps=fps)
            except SourceError as error:
                failed += 1
                click.echo(f"Not written: {error}", err=True)
            else:
                turned = np.flatnonzero(done.flipped).tolist()
                lines += [(str(source), frame) for frame in turned]
                click.echo(f"{target}: {len(turned)} of {len(done.flipped)} frames turned")
            bar.advance()
    with (
        whole_file(out / "flipped.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        csv.writer(stream).writerows([("video", "frame"), *lines])
    if failed == len(sources):
        raise InputError(f"no video of {folder} could be turned. See the lines above.")
