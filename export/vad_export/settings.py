"""Changes to what stands outside a bundle's graph. Needs no more than the runtime does."""

from collections.abc import Sequence
from typing import Any

import msgspec

from vad_runtime.bundle import Bundle, rewrite_manifest
from vad_runtime.contracts import ConfigError, Scoring

_SETTABLE = tuple(
    field for field in Scoring.__struct_fields__ if field not in ("method", "evidence")
)


def set_values(bundle: Bundle, settings: Sequence[str]) -> Bundle:
    """Change what stands outside the graph: scoring, name, licence.

    Args:
        bundle: The bundle; only its manifest is rewritten.
        settings: `key=value`; `threshold=none` switches alarms off.

    Raises:
        ConfigError: An unknown key or a value out of its range; nothing is changed.
        BundleError: The manifest cannot be written.
    """
    scoring: dict[str, Any] = msgspec.to_builtins(bundle.manifest.scoring)
    texts: dict[str, str] = {}
    changed: list[str] = []
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise ConfigError(f"{setting}: write it as key=value, e.g. threshold=1.2")
        if key in ("name", "licence"):
            texts[key] = text
        elif key in _SETTABLE:
            scoring[key] = None if text.lower() == "none" and key == "threshold" else text
            changed.append(key)
        else:
            have = ", ".join((*_SETTABLE, "name", "licence"))
            raise ConfigError(f"{key} cannot be set. Choose from: {have}")
    if changed:
        by_hand = f"; set by hand: {', '.join(changed)}"
        chosen = bundle.manifest.scoring.method.split("; set by hand")[0]
        scoring["method"] = f"{chosen}{by_hand}"
    try:
        new = msgspec.convert(scoring, Scoring, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{' '.join(settings)}: {error}. Give another value.") from None
    manifest = msgspec.structs.replace(bundle.manifest, scoring=new, **texts)
    return rewrite_manifest(bundle, manifest)
