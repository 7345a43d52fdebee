"""TensorRT plans: the library behind one adapter, what a plan file says, and where it may run."""
