"""What the features of a MIL head were computed by: a graph from clip to score must do the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vad_runtime.contracts import ClipSpec, ConfigError, FeatureSpec
from vad_runtime.features import CLIP
from vad_training.config import BackboneConfig, MilConfig
from vad_training.models.backbones.base import ClipEmbedder, clip_of
from vad_training.models.backbones.registry import describe, embedder_from_config, spec_from_config


@dataclass(frozen=True, kw_only=True)
class MadeFeatures:
    """The origin of a head's features, from its configuration and from the feature files."""

    config: MilConfig
    about: dict[str, Any]
    """What the feature files say (`vad_runtime.features.VideoFeatures.about`); may be empty."""

    @classmethod
    def of(cls, summary: dict[str, Any], config: MilConfig) -> "MadeFeatures":
        """Return it for a run's summary and configuration."""
        about = summary.get("features")
        return cls(config=config, about=about if isinstance(about, dict) else {})

    def spec(self, size: int) -> FeatureSpec:
        """Return what the head alone takes, D being `size`."""
        settings = self.config.features
        return FeatureSpec(
            segments=settings.segments,
            size=size,
            normalise=settings.normalise,
            modality=settings.modality,
            made_by=self._made_by(),
        )

    def clip(self) -> ClipSpec:
        """Return the clip that one feature was computed from.

        Raises:
            ConfigError: A clip that the backbone does not take.
        """
        if isinstance(self.about.get("clip"), dict):
            return msgspec.convert(self.about["clip"], ClipSpec)
        config = self.config
        if config.backbone is not None:
            return clip_of(spec_from_config(config.backbone), config.clip)
        # Of foreign features nothing is known; C3D's clip is what most were computed from.
        choice = {k: v for k, v in msgspec.structs.asdict(config.clip).items() if k != "frames"}
        return ClipSpec(frames=config.clip.frames or CLIP, height=112, width=112, **choice)

    def embedder(
        self, size: int, weights: Path | None = None, mean: Path | None = None
    ) -> tuple[ClipEmbedder, dict[str, Any]]:
        """Return the backbone, and what the manifest says of it.

        Args:
            size: D, which it must give.
            weights: File with its weights; None = the configuration's.
            mean: File with its mean cube; None = the configuration's.

        Raises:
            ConfigError: It is not known, looks at optical flow, or is not the one that computed
                the features.
            InputError: A file that cannot be read or does not fit.
        """
        if self.config.features.modality != "rgb":
            raise ConfigError(
                "optical flow is not computed in a graph, and this head looks at "
                f"{self.config.features.modality} features. Export it with --head-only."
            )
        backbone = self._backbone(weights, mean)
        found = describe(backbone)
        said = self.about.get("backbone")
        if isinstance(said, dict) and _identity(said) != _identity(found):
            raise ConfigError(
                f"the features were computed by {_words(said)}, not by {_words(found)}. "
                "Give the same weights, mean and preprocessing."
            )
        embedder = embedder_from_config(backbone, self.clip().frames)
        if embedder.spec.embedding != size:
            raise ConfigError(
                f"{backbone.name} gives {embedder.spec.embedding} numbers, but the head takes "
                f"{size}. Set backbone.name to the one that computed the features."
            )
        return embedder, found

    def _backbone(self, weights: Path | None, mean: Path | None) -> BackboneConfig:
        said = self.about.get("backbone")
        base = self.config.backbone
        if base is None and isinstance(said, dict) and weights is not None:
            base = BackboneConfig(
                name=said["name"], preprocessing=said.get("preprocessing", "published")
            )
        if base is None:
            if isinstance(said, dict):
                what, how = f"holds no weights of {_words(said)}, which", "Give them with --weights"
            else:
                what, how = "does not say which backbone", "Train with backbone.* set"
            raise ConfigError(
                f"the run {what} computed its features. {how}, or export with --head-only."
            )
        if weights is not None:
            base = msgspec.structs.replace(base, weights=str(weights), random_weights=None)
        return base if mean is None else msgspec.structs.replace(base, mean=str(mean))

    def _made_by(self) -> str:
        said = self.about.get("backbone")
        if isinstance(said, dict):
            return _words(said)
        return self.config.backbone.name if self.config.backbone else "unknown"


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """Return what `describe` says, without the names of files: their hashes count."""
    return {
        key: value
        for key, value in about.items()
        if key not in ("weights", "mean") or f"{key}_sha256" not in about
    }


def _words(about: dict[str, Any]) -> str:
    digest = about.get("weights_sha256")
    by_hash = f" (sha256 {str(digest)[:12]}…)" if digest else ""
    return f"{about.get('name')} with {about.get('weights')}{by_hash}"
