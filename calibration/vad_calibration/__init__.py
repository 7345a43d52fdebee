"""Clips that stand for a site: chosen from real footage, by clip and never by frame."""

from vad_calibration.clip_set import (
    CalibrationSet,
    ClipRecord,
    ClipSet,
    calibration_set_from_footage,
    read_calibration_set,
    write_calibration_set,
)
from vad_calibration.inputs import ArrayInputs, InputSet
from vad_calibration.sampling import SampledClips, clips_from_footage

__all__ = [
    "ArrayInputs",
    "CalibrationSet",
    "ClipRecord",
    "ClipSet",
    "InputSet",
    "SampledClips",
    "calibration_set_from_footage",
    "clips_from_footage",
    "read_calibration_set",
    "write_calibration_set",
]
