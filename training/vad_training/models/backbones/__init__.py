"""Video backbones: networks whose embeddings other models look at.

::

    base.py         BackboneSpec, Preprocess, ClipEmbedder
    registry.py     BACKBONES, spec_of, embedder_from_config, load_strictly, describe
    torchvision.py  r2plus1d_18, r3d_18, mc3_18
    pytorchvideo.py slow_r50, slowfast_r50, x3d_xs, x3d_s, x3d_m
    timesformer.py  timesformer
    c3d.py  i3d.py  resnet3d.py  flow.py
"""
