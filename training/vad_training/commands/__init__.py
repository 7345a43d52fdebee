"""The commands of `vad-train` that have a module of their own; imported when they are asked for."""
