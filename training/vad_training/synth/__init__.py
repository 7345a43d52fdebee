"""A procedurally drawn surveillance scene with frame-accurate truth, written as real videos.

One fixed camera looks at a plaza in front of a building. People walk along three walkways in both
directions, and along a one-way lane towards the entrance. Test clips add a runner, a cyclist, a
thrown object, somebody who lies down, or somebody who walks against the one-way lane.
"""

from vad_training.synth.config import KINDS, SynthConfig, total_frames
from vad_training.synth.write import synth_dataset

__all__ = ["KINDS", "SynthConfig", "synth_dataset", "total_frames"]
