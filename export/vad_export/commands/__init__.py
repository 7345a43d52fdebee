"""The commands of `vad-export` that have a module of their own, imported when asked for."""
