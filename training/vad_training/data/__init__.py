"""Footage for training: decoded once, then windows out of one memory-mapped array."""
