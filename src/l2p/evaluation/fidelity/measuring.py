"""Owns reports/fidelity.json: every comparison of two folders of images that was asked for, each with its card.

Form: `pairs` (their number, digest, size, what is unpaired or damaged), and `spectrum`, `clip`, `inception`, each null
when it was not asked for. `spectrum`: `frequency` (cycles per pixel), `reference` and `other` (mean power at each), and
`bands` {name: {ratio, interval}}. `clip`: `model`, `cmmd`, `frechet`, and `score` {reference, other: {value, interval}}
or null without prompts. `inception`: `fid`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from l2p.config import FidelityParams, Layout
from l2p.errors import EvaluationError
from l2p.evaluation.fidelity.pairs import ImagePair, Pairs, find_pairs
from l2p.evaluation.fidelity.spectrum import BANDS, band_ratios, frequencies, radial_spectrum
from l2p.evaluation.judgements import Failure, read_image
from l2p.evaluation.judges.base import UnjudgeableImage
from l2p.evaluation.scores import BOOTSTRAP_SEED, RESAMPLES, percentile_interval, resample
from l2p.files import read_json

_BATCH = 16
MIN_FRECHET_IMAGES = 2

Images = tuple[np.ndarray, np.ndarray]


def measure(reference: Path, other: Path, settings: FidelityParams, *, device: str) -> dict[str, Any]:
    """Compare the images of two folders; see the module for the form of the result.

    Raises:
        MissingFileError, EvaluationError: no images, none in common, images of two sizes, or a model cannot be had.
    """
    found = find_pairs(reference, other)
    readable, failures, size_px = _readable(found.pairs)
    pairs = Pairs(readable, found.unpaired)
    return {
        "pairs": {
            "n": len(readable),
            "sha256": pairs.digest,
            "height_px": size_px[0],
            "width_px": size_px[1],
            "unpaired": list(found.unpaired),
            "failures": [asdict(failure) for failure in failures],
            "interval": f"95 % percentile bootstrap over prompts, {RESAMPLES} resamples, seed {BOOTSTRAP_SEED}",
        },
        "spectrum": _spectrum(pairs) if settings.spectrum else None,
        "clip": _clip(pairs, settings.clip, device) if settings.clip is not None else None,
        "inception": _inception(pairs, device) if settings.inception else None,
    }


def read_fidelity(path: Path = Layout.fidelity) -> dict[str, Any]:
    """What stage `fidelity` wrote.

    Raises:
        MissingFileError: the stage has not run.
    """
    found: dict[str, Any] = read_json(path, written_by="l2p fidelity")
    return found


def _readable(pairs: Sequence[ImagePair]) -> tuple[tuple[ImagePair, ...], list[Failure], tuple[int, int]]:
    """Pairs of which both images can be read, the others as failures, and the size (height, width) of all."""
    good: list[ImagePair] = []
    failures: list[Failure] = []
    size_px: tuple[int, int] | None = None
    for pair in tqdm(pairs, desc="reading", unit="pair", disable=None):
        try:
            shapes = [read_image(path).shape[:2] for path in (pair.reference, pair.other)]
        except UnjudgeableImage as error:
            failures.append(Failure(pair.name, str(error)))
            continue
        size_px = size_px or (shapes[0][0], shapes[0][1])
        for path, shape in zip((pair.reference, pair.other), shapes, strict=True):
            if shape != size_px:
                raise EvaluationError(
                    f"{path}: {shape[1]}x{shape[0]} px, others have {size_px[1]}x{size_px[0]} px. Only images of one "
                    "size are compared; draw both models at the same size."
                )
        good.append(pair)
    if size_px is None:
        raise EvaluationError(f"none of the {len(pairs)} pairs of images can be read. First: {failures[0].reason}")
    return tuple(good), failures, size_px


def _spectrum(pairs: Pairs) -> dict[str, Any]:
    spectra = [[radial_spectrum(image) for image in images] for images in _read(pairs)]
    reference, other = np.array(spectra).transpose(1, 0, 2)
    bands = band_ratios(reference, other, pairs.strata())
    return {
        "frequency": frequencies(reference.shape[1]).tolist(),
        "reference": reference.mean(0).tolist(),
        "other": other.mean(0).tolist(),
        "bands": {name: asdict(band) | {"cycles_per_px": list(BANDS[name])} for name, band in bands.items()},
    }


def _clip(pairs: Pairs, model: str, device: str) -> dict[str, Any]:
    from l2p.evaluation.fidelity.clip import ClipEmbedder, clip_scores
    from l2p.evaluation.fidelity.distances import CMMD_SIGMA, cmmd, frechet

    embedder = ClipEmbedder(model, device)
    seen: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for batch in _batches(pairs):
        for own, images in zip(seen, zip(*batch, strict=True), strict=True):
            own.append(embedder.images(images))
    features = [np.concatenate(each) for each in seen]
    prompts = [pair.prompt for pair in pairs.pairs]
    score = None
    if None not in prompts:
        unique = list(dict.fromkeys(str(prompt) for prompt in prompts))
        texts = np.concatenate([embedder.texts(unique[at : at + _BATCH]) for at in range(0, len(unique), _BATCH)])
        wanted = texts[[unique.index(str(prompt)) for prompt in prompts]]
        strata = pairs.strata()
        score = {
            name: _mean(clip_scores(each, wanted), strata)
            for name, each in zip(("reference", "other"), features, strict=True)
        }
    enough = len(pairs.pairs) >= MIN_FRECHET_IMAGES
    return {
        "model": {"name": embedder.name, "digest": embedder.digest},
        "cmmd": cmmd(*features),
        "cmmd_sigma": CMMD_SIGMA,
        "frechet": frechet(*features) if enough else None,
        "score": score,
    }


def _inception(pairs: Pairs, device: str) -> dict[str, Any]:
    try:
        import torch_fidelity  # noqa: F401
    except ImportError as error:
        raise EvaluationError(
            "fidelity.inception: torch-fidelity, which brings the Inception network, is not installed. Run "
            "`pip install 'l2p[fid]'`, or set it to false."
        ) from error
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=2048).to(device)
    for batch in _batches(pairs):
        for real, images in zip((True, False), zip(*batch, strict=True), strict=True):
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device)
            metric.update(pixels, real=real)
    return {"fid": float(metric.compute()), "features": "Inception v3 of torch-fidelity, 2048 features"}


def _mean(values: np.ndarray, strata: Sequence[int]) -> dict[str, Any]:
    """Mean over images, with an interval over prompts."""
    numbers = np.asarray(strata)
    weights = resample([0] * (int(numbers.max()) + 1))[:, numbers]
    return {"value": float(values.mean()), "interval": percentile_interval((weights @ values) / weights.sum(1))}


def _read(pairs: Pairs) -> Iterator[Images]:
    for pair in tqdm(pairs.pairs, desc="comparing", unit="pair", disable=None):
        yield read_image(pair.reference), read_image(pair.other)


def _batches(pairs: Pairs) -> Iterator[list[Images]]:
    batch: list[Images] = []
    for images in _read(pairs):
        batch.append(images)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
