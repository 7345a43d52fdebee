"""As much of pycuda as vad_runtime.cuda.pycuda uses, on whatever libcuda.so.1 there is."""

VERSION_TEXT = "2026.1"
