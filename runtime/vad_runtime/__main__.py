"""`python -m vad_runtime` is `vad-run`."""

from vad_runtime.cli import main

main()
