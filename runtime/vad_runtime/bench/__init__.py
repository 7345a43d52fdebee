"""`vad-run bench`: does a bundle meet its target on this machine?"""
