"""Owns the model card that a registered version carries as its description."""

from __future__ import annotations

import json
from collections.abc import Mapping

from l2p.registry.gate import TITLES
from l2p.registry.versions import COMMIT_TAG, DRAWING_TAG, ORIGIN_TAG, ROOT_TAG, SCORES_TAG, WEIGHTS_TAG

_SHORT = 12


def model_card(tags: Mapping[str, str], *, name: str) -> str:
    """Markdown from the tags of a version of the registered model `name`."""
    origin = json.loads(tags[ORIGIN_TAG])
    revision = f" at revision `{origin['revision']}`" if origin["revision"] else ""
    scores = json.loads(tags[SCORES_TAG])
    drawing = json.loads(tags[DRAWING_TAG])
    rows = [_row(title, scores[name]) for name, title in TITLES.items()]
    return "\n".join(
        [
            "A pixel model: a latent diffusion transformer converted to draw pixels without a VAE.",
            "",
            f"Source: `{origin['source']}`{revision} (digest `{origin['source_digest'][:_SHORT]}`), whose "
            f"licence holds for this model too. Trained {origin['steps']:,} steps on a corpus of {origin['images']:,} "
            "images.",
            "",
            "| benchmark | source | pixel | retention | 95 % interval |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Weights `{tags[WEIGHTS_TAG][:_SHORT]}`, lineage `{tags[ROOT_TAG][:_SHORT]}`, "
            f"code `{tags.get(COMMIT_TAG, 'not in git')}`. The weights are a delta on a pinned source, "
            "which must be reachable where the model is loaded.",
            "",
            "It knows what its source knows, with its faults and biases; the intervals say how sure the scores are. "
            "Sizes far from those it was trained at are not measured.",
            "",
            f'Load: `mlflow.pyfunc.load_model("models:/{name}@champion")`, or '
            f"`l2p generate PROMPT --model {name}@champion`.",
            "",
            "Input: rows of `prompt` and, if wanted, `seed`. Output: one base64 PNG per row. "
            f"Defaults: {drawing['width_px']} x {drawing['height_px']} pixels, {drawing['num_steps']} steps, "
            f"guidance {drawing['guidance_scale']}.",
        ]
    )


def _row(title: str, score: Mapping[str, object]) -> str:
    low_high = score["interval"]
    interval = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if isinstance(low_high, list | tuple) else "none"
    retention = score["retention"]
    kept = f"{retention:.3f}" if isinstance(retention, float | int) else "not measured"
    return f"| {title} | {score['source']:.3f} | {score['pixel']:.3f} | {kept} | {interval} |"
