"""What is kept of events besides their rows: clips, snapshots, films, scores; and for how long."""

from vad_runtime.live.media.names import media_names, part_name, peak_name

__all__ = ["media_names", "part_name", "peak_name"]
