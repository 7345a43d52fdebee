"""Builds TensorRT plans from the graphs of a bundle."""
