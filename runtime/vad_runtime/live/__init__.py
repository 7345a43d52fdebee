"""Cameras that run for months: streams that share engines, deadlines, events."""
