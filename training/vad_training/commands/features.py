"""`vad-train features`."""

from pathlib import Path
from typing import Literal

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=_PATH)
@click.option("-o", "--out", "output", type=_PATH, required=True, help="One npz a video.")
@click.option("--backbone", "name", default="c3d", show_default=True, help="A backbone's name.")
@click.option("--weights", type=_PATH, help="File with its weights, in the published layout.")
@click.option("--random-weights", type=click.IntRange(0), metavar="SEED", help="For trials.")
@click.option("--mean", type=_PATH, help="Sports-1M mean cube (c3d).")
@click.option(
    "--preprocessing",
    type=click.Choice(["published", "simple"]),
    default="published",
    show_default=True,
    help="simple (c3d): straight to 112 x 112, no mean.",
)
@click.option(
    "--modality",
    type=click.Choice(["rgb", "flow", "two"]),
    default="rgb",
    show_default=True,
    help="flow and two (both, side by side) are for i3d.",
)
@click.option("--flow-weights", type=_PATH, help="Weights of the flow network (i3d).")
@click.option(
    "--flow-method",
    type=click.Choice(["dis", "farneback"]),
    default="dis",
    show_default=True,
    help="How optical flow is computed.",
)
@click.option(
    "--frames", type=click.IntRange(1), help="Frames of a clip.  [default: the backbone's]"
)
@click.option("--stride", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--hop",
    type=click.IntRange(1),
    help="Frames from the start of one clip to the next.  [default: a clip's length]",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Decoders.")
@click.option(
    "--batch", type=click.IntRange(1), default=4, show_default=True, help="Clips at once."
)
@click.option("--device", default="auto", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace features that were made in another way.")
def features(
    folder: Path,
    output: Path,
    name: str,
    weights: Path | None,
    random_weights: int | None,
    mean: Path | None,
    preprocessing: Literal["published", "simple"],
    modality: Literal["rgb", "flow", "two"],
    flow_weights: Path | None,
    flow_method: Literal["dis", "farneback"],
    frames: int | None,
    stride: int,
    hop: int | None,
    workers: int,
    batch: int,
    device: str,
    overwrite: bool,
) -> None:
    """Compute the features of every video below FOLDER: one npz each, in the same tree.

    Stopped and started again, it goes on where it was. Videos that cannot be read are named at the
    end.
    """
    from vad_runtime.contracts import ConfigError, InputError
    from vad_training.config import BackboneConfig, ClipChoice
    from vad_training.extraction import extract_features
    from vad_training.feature_network import FLOW, network_from_config
    from vad_training.loop import device_of
    from vad_training.models.backbones.base import clip_of
    from vad_training.models.backbones.registry import spec_of

    rgb = flow = None
    if modality != "flow":
        rgb = BackboneConfig(
            name=name,
            weights=str(weights) if weights else None,
            random_weights=None if weights else random_weights,
            preprocessing=preprocessing,
            mean=str(mean) if mean else None,
        )
    elif weights or mean:
        raise ConfigError("--modality flow takes --flow-weights, not --weights or --mean.")
    if modality != "rgb":
        if name != "i3d":
            raise ConfigError(
                f"--modality {modality} is for i3d, not for {name}. Add --backbone i3d, or use rgb."
            )
        flow = BackboneConfig(
            name=FLOW,
            weights=str(flow_weights) if flow_weights else None,
            random_weights=None if flow_weights else random_weights,
        )
    elif flow_weights:
        raise ConfigError("--flow-weights needs --modality flow or two.")
    spec = spec_of(name, preprocessing)
    # Clips end to end: each frame (each stride-th) is seen once.
    length = (frames or spec.frames[0]) * stride
    clip = clip_of(spec, ClipChoice(frames=frames, stride=stride, hop=hop or length))
    network = network_from_config(
        rgb, flow, frames=clip.frames, method=flow_method, device=device_of(device)
    )
    result = extract_features(
        folder, output, network, clip, workers=workers, batch=batch, overwrite=overwrite
    )
    for line in result.skipped:
        click.echo(f"Skipped: {line}", err=True)
    if not result.written and not result.kept:
        raise InputError(
            f"{folder}: none of {len(result.skipped)} videos gave features. See the reasons above."
        )
    click.echo(
        f"{output}: {len(result.written)} videos done, {len(result.kept)} were there already, "
        f"{len(result.skipped)} skipped"
    )
