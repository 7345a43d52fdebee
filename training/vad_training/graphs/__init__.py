"""From a checkpoint to the graph that scores: the same one in PyTorch, ONNX and on the device.

::

    base.py         ScoreGraph: module, input, outputs, and what the manifest says of them
    stae.py         frames to a score each, in four forms
    backbone_ae.py  clip to reconstruction error or distance from the training's classes
    mil.py          clip to score; a video's features to a score for each segment
    features.py     what a MIL head's features were computed by
    choose.py       graph_from_checkpoint
"""

from vad_training.graphs.base import ScoreGraph
from vad_training.graphs.choose import FORMS_OF, graph_from_checkpoint, takes_features

__all__ = ["FORMS_OF", "ScoreGraph", "graph_from_checkpoint", "takes_features"]
