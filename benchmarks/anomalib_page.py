"""The page of anomalib_study.py."""

PAGE = """# anomalib beside vad-edge

* Made on {day} with
  `python benchmarks/anomalib_study.py --anomalib-python PATH --models {models} --rounds {rounds}`
* {machine}
* anomalib's side, an environment and a process of its own: {theirs}
* Before the run: {load}. Weights are drawn, seeded.

## What anomalib {version} does with a clip

Two of its models score video: **AI-VAD** (`models/video/ai_vad`: optical flow, boxes, poses and
CLIP features against stored ones, from two frames) and **FUVAS** (`models/video/fuvas`: the
features of a video network against their principal components). Both run in PyTorch. Neither gets
into OpenVINO by anomalib's own means:

* `to_openvino` and `to_onnx` try the model on one picture, (1, 3, H, W), whatever the model takes
  (`get_example_input` in `models/components/base/export_mixin/utils.py`). Both video models take
  (N, frames, 3, H, W). FUVAS was tried here: `{export}`. AI-VAD needs the weights of four
  networks from the internet: it was read, not run.
* `OpenVINOInferencer.predict` takes pictures. FUVAS, exported by hand past `to_onnx`, is computed,
  and then the answer is refused: `{predict}`.
* Its integration tests skip both (`tests/integration/model/test_models.py`, August 2026).

FUVAS with its default network (X3D-S, 8 frames of 224x224) takes {fuvas} a clip in
PyTorch here: another network on another clip than those below, a number, not a comparison.

## The same graph through both

So what can be compared is the inferencer, with our graphs: T pictures as one batch, and a graph
that turns them into a clip again. The fp32 graph is the bundle's, so our exact passes are in it;
int8 there is `nncf.quantize` as it comes, which is what anomalib's `INT8_PTQ` calls. anomalib gives
OpenVINO no settings, so its fp32 models compute in bf16 on a processor that has it, without a word:
this is the row bf16; for fp32 it was told. {rounds} shuffled rounds, both processes in turns, all
usable threads; medians. *x / ours* is the median of the rounds' ratios with its interval
({kind}). *Difference*: largest one of a score to our fp32, as a share of the largest score.
*Without the inferencer* is OpenVINO's call with a ready array; in f32 our graphs give the same
score to the last bit there as here, in bf16 the pixels are rounded once more. Other work of the
machine lengthens wall times more than CPU times.

{tables}
`predict` makes a float of each pixel, searches the largest value, divides where it is above 1 (so a
clip whose pixels are all 0 or 1 is not divided), and copies the floats once more for its answer;
vad-edge gives the bytes to the graph.

## What each needs

To the first score of {first} in fp32, a new process: import, compile, one clip. Median of {starts}
in turns. Most memory: as the kernel counts it.

| | wall s | CPU s | most memory, MB |
|---|---:|---:|---:|
{needs}
{busy}
anomalib's inferencer imports PyTorch and Lightning with it, also where only OpenVINO computes.

## Others that could stand here

* **DL Streamer**: maintained. Its action recognition element took an encoder of pictures and a
  decoder of their embeddings; in its source of August 2026 the element is gone. Not measured: its
  inference elements take pictures, no clips. Underneath is OpenVINO, which stands in the tables.
* **Open Model Zoo's action recognition demo**: in maintenance mode by its README; a demo of given
  models, on the same OpenVINO. Not measured.
* **MMAction2 with MMDeploy**: exports recognisers to ONNX Runtime, OpenVINO and others, so the
  engines would be the same. Not measured: its last commit is of October 2023, and it asks for
  `mmcv` below 2.2.0.
* **PaddleVideo**: networks in Paddle, on Paddle's own engine. Not measured: its last commit is of
  March 2024, and the same graph would have to be written anew for it.
"""
