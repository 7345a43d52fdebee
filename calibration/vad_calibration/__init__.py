"""Clips that stand for a site: chosen from real footage, by clip and never by frame."""

from vad_calibration.sampling import SampledClips, clips_from_footage

__all__ = ["SampledClips", "clips_from_footage"]
