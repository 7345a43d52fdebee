"""`python -m vad_export` is `vad-export`."""

from vad_export.cli import main

main()
