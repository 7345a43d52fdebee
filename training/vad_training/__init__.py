"""Trains video-anomaly models on a workstation. Nothing here is needed on a device."""
