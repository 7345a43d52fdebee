"""From a checkpoint to a bundle that a device can run."""
