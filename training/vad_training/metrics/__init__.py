"""Metrics of anomaly detection: pure functions of numpy arrays, one module a subject.

Frames     `roc` (curves and areas), `frames` (over the frames of many videos), `offline`
Live use   `alarms` (delay, false alarms an hour), `agreement` (two score sets of one model)
Places     `regions` (RBDC and TBDC)
"""

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
