"""Data tools: import, convert, crop, split, augment, describe and check folders of videos.

::

    facts       size, frames and duration of a video     entries   a folder or table as entries
    rewrite     one video into another, by frames        mp4       writes one H.264 film
    layouts_*   the folder forms of public data sets     importing makes table and labels of them

`convert`, `square`, `split`, `augment`, `stats` and `check` are the commands of `vad-train data`.
"""

KINDS = ("ucsd", "avenue", "shanghaitech", "ucf-crime", "ucf-sports", "classes")
"""Data sets that `importing` reads."""

OPS = (
    "grid-distortion",
    "rotation",
    "rgb-shift",
    "brightness-contrast",
    "clahe",
    "pixel-dropout",
    "blur",
)
"""What `augment` may do to a clip."""
