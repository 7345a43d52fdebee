"""Which form of score and which filter `vad-export deploy` should use, measured on drawn sites.

The sites are drawn with other seeds than the one that `scripts/demo` reports on, so nothing here is
chosen on the demo's test clips:

    vad-train synth SITE --seed 101
    vad-export deploy --normal SITE/train --validation SITE/val -o SITE.vad --minutes 4
    python benchmarks/deploy_recipe_study.py SITE=SITE.run [SITE=RUN ...]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from vad_export.bundles import bundle_from_graph
from vad_runtime.backends import open_backend
from vad_runtime.bundle import Bundle
from vad_runtime.contracts import Scoring
from vad_runtime.detector import Detector
from vad_runtime.labels import read_labels
from vad_runtime.scoring import causal_scores
from vad_runtime.sources import find_sources, open_source
from vad_training.checkpoint import checkpoint_from_path
from vad_training.graphs import graph_from_checkpoint
from vad_training.graphs.stae import ScoreForm
from vad_training.metrics.roc import roc_auc

FORMS = {
    "reconstruction": ScoreForm(form="reconstruction"),
    "prediction": ScoreForm(form="prediction"),
    "both, alpha 1": ScoreForm(form="both", alpha=1.0),
}
FILTERS = {
    "none": Scoring(),
    **{f"mean {n}": Scoring(smoothing="mean", window=n) for n in (4, 8, 16)},
    "median 9": Scoring(smoothing="median", window=9),
}


def raw_by_clip(bundle: Bundle, site: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return raw score (first score held back to frame 0) and truth of each test clip."""
    labels = read_labels(site / "labels.json")
    choice = open_backend(bundle)
    out = {}
    for path in find_sources(site / "test"):
        source = open_source(path, bundle.manifest.clip, pictures=False)
        settled = Detector(bundle.manifest, choice.backend).run(
            source.frames(), nominal_fps=source.info.fps
        )
        raw = np.array([np.nan if s.raw is None else s.raw for s in settled])
        truth = labels.of(path)
        assert truth is not None
        out[path.stem] = (raw, truth.mask())
    choice.backend.close()
    return out


def held(scores: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(scores))
    before = np.searchsorted(known, np.arange(len(scores)), side="right") - 1
    return scores[known[np.maximum(before, 0)]]


def main() -> None:
    pairs = [argument.split("=") for argument in sys.argv[1:]]
    for name, form in FORMS.items():
        clips = {}
        for site, run in pairs:
            with tempfile.TemporaryDirectory() as work:
                checkpoint = checkpoint_from_path(Path(run))
                graph = graph_from_checkpoint(checkpoint, form=form.form, alpha=form.alpha)
                bundle = bundle_from_graph(graph, Path(work) / "a.vad")
                for clip, value in raw_by_clip(bundle, Path(site)).items():
                    clips[f"{site}/{clip}"] = (*value, site)
        for label, scoring in FILTERS.items():
            scored = {k: (held(causal_scores(r, scoring)), t, s) for k, (r, t, s) in clips.items()}
            micro = {
                site: roc_auc(
                    np.concatenate([v[0] for v in scored.values() if v[2] == site]),
                    np.concatenate([v[1] for v in scored.values() if v[2] == site]),
                )
                for site, _ in pairs
            }
            kinds: dict[str, list[float]] = {}
            for clip, (score, truth, _) in scored.items():
                if truth.any():
                    kind = Path(clip).name.rsplit("_", 1)[0]
                    kinds.setdefault(kind, []).append(roc_auc(score, truth))
            row = " ".join(f"{k} {np.mean(v):.3f}" for k, v in sorted(kinds.items()))
            print(f"| {name} | {label} | " + " ".join(f"{v:.4f}" for v in micro.values()), "|", row)


if __name__ == "__main__":
    main()
