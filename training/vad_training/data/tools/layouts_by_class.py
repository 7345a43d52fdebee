"""Readers of data sets whose folders are classes: UCF-Crime, UCF-Sports, and any class folders.

::

    UCF-Crime     Videos/Abuse/Abuse001_x264.mp4
                  Temporal_Anomaly_Annotation.txt  Anomaly_Train.txt
    UCF-Sports    Diving-Side/001/*.avi   or   Diving-Side/001/*.jpg
    classes       CLASS/any.mp4
"""

from collections import Counter
from pathlib import Path

from vad_runtime.contracts import InputError
from vad_training.data.annotations import temporal_annotation
from vad_training.data.table import Split
from vad_training.data.tools.entries import entries_from_folder
from vad_training.data.tools.layouts import Found, Layout, folder_within, videos_in, visible

NORMAL = "Normal"
"""UCF-Crime's own name of the class."""


def ucf_crime(root: Path, lists: Path | None = None) -> Layout:
    """Find the videos of UCF-Crime; a part of the data set is enough.

    A video's class is its folder; every folder whose name holds `Normal` is the class Normal. Test
    is what the annotation names, train what `Anomaly_Train.txt` names.

    Args:
        root: Holds the videos, in class folders at any depth.
        lists: Holds the two text files; None = they lie somewhere below `root`.

    Raises:
        InputError: No videos, no annotation, or a malformed line.
    """
    layout = Layout(label_set="UCF-Crime temporal annotation")
    place = root if lists is None else lists
    annotation = _list(place, "Temporal_Anomaly_Annotation*.txt")
    if annotation is None:
        raise InputError(
            f"{place} holds no Temporal_Anomaly_Annotation.txt. "
            "Name the folder that does with --annotations."
        )
    truth = temporal_annotation(annotation)
    train_list = _list(place, "Anomaly_Train*.txt")
    trained = _tails(train_list) if train_list is not None else set()
    if train_list is None:
        layout.notes.append("there is no Anomaly_Train.txt; videos without annotation get no split")
    listed = {name for _, name in trained}
    sources = videos_in(root)
    times = Counter(source.name for source in sources)
    for source in sources:
        parent, name = source.parent.name, source.name
        # The normal training videos also lie in another of the data set's folders, under the same
        # names: the list's folder says which copy is meant.
        named = (parent, name) in trained or (times[name] == 1 and name in listed)
        split: Split = "test" if name in truth else "train" if named else ""
        label = NORMAL if NORMAL.lower() in parent.lower() else parent
        layout.found.append(
            Found(
                source=source,
                split=split,
                label=truth[name][0] if name in truth else label,
                anomalies=truth[name][1] if name in truth else None,
            )
        )
    missing = len(set(truth) - set(times))
    if missing:
        layout.notes.append(f"{missing} of the {len(truth)} annotated test videos are not there")
    absent = len(listed - set(times))
    if absent:
        layout.notes.append(f"{absent} of the {len(listed)} training videos are not there")
    return layout


def ucf_sports(root: Path) -> Layout:
    """Find the videos of UCF-Sports: class folders with numbered folders of one video each.

    Where a numbered folder holds the video and its frames, the video is taken.

    Raises:
        InputError: No class folders with videos.
    """
    layout = Layout(label_set="UCF-Sports")
    base = folder_within(root, "ucf action", "ucf_sports_actions/ucf action") or root
    for folder in visible(base):
        if not folder.is_dir():
            continue
        for numbered in visible(folder):
            if not numbered.is_dir():
                continue
            sources = videos_in(numbered)
            if not sources:
                layout.notes.append(f"{numbered} holds neither a video nor frames")
            layout.found += [
                Found(source=source, label=folder.name)
                for source in _without_frames(sources, numbered)
            ]
    return layout


def classes(root: Path) -> Layout:
    """Find every video; the folder that it lies in is its class.

    Raises:
        InputError: No videos.
    """
    found = [Found(source=e.path, label=e.label) for e in entries_from_folder(root)]
    return Layout(label_set="classes", found=found)


def _without_frames(sources: list[Path], numbered: Path) -> list[Path]:
    """Leave out sub-folders of frames beside a video: they show the same (`jpeg/`, `gt/`)."""
    films = [source for source in sources if source.is_file() and source.parent == numbered]
    return films or sources


def _list(folder: Path, pattern: str) -> Path | None:
    return next((f for f in sorted(folder.rglob(pattern)) if not f.name.startswith(".")), None)


def _tails(file: Path) -> set[tuple[str, str]]:
    """Read a list of `FOLDER/NAME` lines as pairs."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}). Copy it again.") from None
    paths = [Path(line.strip()) for line in lines if line.strip()]
    return {(path.parent.name, path.name) for path in paths}
