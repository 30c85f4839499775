"""Owns the model card that a registered version carries as its description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from l2p.registry.gate import TITLES
from l2p.registry.versions import COMMIT_TAG, DRAWING_TAG, ORIGIN_TAG, ROOT_TAG, SCORES_TAG, WEIGHTS_TAG

_SHORT = 12


def model_card(tags: Mapping[str, str], *, name: str) -> str:
    """Markdown from the tags of a version of the registered model `name`."""
    origin = json.loads(tags[ORIGIN_TAG])
    revision = f" at revision `{origin['revision']}`" if origin["revision"] else ""
    licence = f"licence `{origin['licence']}`" if origin.get("licence") else "licence not named by it"
    scores = json.loads(tags[SCORES_TAG])
    drawing = json.loads(tags[DRAWING_TAG])
    rows = [_row(title, scores[name]) for name, title in TITLES.items()]
    return "\n".join(
        [
            "A pixel model: a latent diffusion transformer converted to draw pixels without a VAE.",
            "",
            f"Source: `{origin['source']}`{revision} (digest `{origin['source_digest'][:_SHORT]}`, {licence}), whose "
            f"licence holds for this model too. Trained {origin['steps']:,} steps on a corpus of {origin['images']:,} "
            f"images{_corpus(origin)}.",
            "",
            "| benchmark | source | pixel | retention | 95 % interval |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Weights `{tags[WEIGHTS_TAG][:_SHORT]}`, lineage `{tags[ROOT_TAG][:_SHORT]}`, "
            f"code `{tags.get(COMMIT_TAG, 'not in git')}`. The weights are a delta on a pinned source, "
            f"which must be reachable where the model is loaded.{_where(origin)}",
            "",
            "It knows what its source knows, with its faults and biases; the intervals say how sure the scores are. "
            "Sizes far from those it was trained at are not measured.",
            "",
            f'Load: `L2PPipeline.from_registry("{name}@champion")`, '
            f'`mlflow.pyfunc.load_model("models:/{name}@champion")`, or '
            f"`l2p generate PROMPT --model {name}@champion`. Serve: `l2p serve {name}@champion`.",
            "",
            "Input: rows of `prompt` and, if wanted, `seed`, `width_px`, `height_px`, `num_steps`, `guidance_scale`. "
            f"Output: one base64 PNG per row. Defaults: {drawing['width_px']} x {drawing['height_px']} pixels, "
            f"{drawing['num_steps']} steps, guidance {drawing['guidance_scale']}.",
        ]
    )


def _corpus(origin: Mapping[str, Any]) -> str:
    """Of a version from before these were recorded: nothing."""
    if "corpus_digest" not in origin:
        return ""
    width, height = origin["size_px"]
    return (
        f" of {width} x {height} pixels, drawn by the source from prompts of `{origin['prompts']}` "
        f"(digest `{origin['corpus_digest'][:_SHORT]}`)"
    )


def _where(origin: Mapping[str, Any]) -> str:
    if not origin.get("by_reference"):
        return ""
    return (
        f" The weights ({origin['weights_mb']:,} MB) are registered by reference: `L2P_WORKSPACE` names a clone of the "
        "project whose DVC cache or remote holds them."
    )


def _row(title: str, score: Mapping[str, object]) -> str:
    low_high = score["interval"]
    interval = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if isinstance(low_high, list | tuple) else "none"
    retention = score["retention"]
    kept = f"{retention:.3f}" if isinstance(retention, float | int) else "not measured"
    return f"| {title} | {score['source']:.3f} | {score['pixel']:.3f} | {kept} | {interval} |"
