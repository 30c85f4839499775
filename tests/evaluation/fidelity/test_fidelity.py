"""Comparing images beyond benchmarks: known spectra, known distances, a real (tiny) CLIP, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from bench.tiny_judges import build_tiny_clip
from l2p.cli import app
from l2p.config import FidelityParams, Layout, load_params
from l2p.errors import EvaluationError, L2PError, MissingFileError
from l2p.evaluation.fidelity.clip import ClipEmbedder, clip_scores
from l2p.evaluation.fidelity.distances import CMMD_SIGMA, cmmd, frechet
from l2p.evaluation.fidelity.measuring import measure, read_fidelity
from l2p.evaluation.fidelity.pairs import find_pairs
from l2p.evaluation.fidelity.spectrum import band_ratios, frequencies, radial_spectrum
from l2p.stages import fidelity

SPECTRUM = FidelityParams(spectrum=True, clip=None, inception=False)


def noise(seed: int, blur: float = 0, side: int = 64) -> np.ndarray:
    """Grey Gaussian noise uint8 [side, side, 3] around the middle, blurred."""
    values = gaussian_filter(np.random.default_rng(seed).normal(0, 30, (side, side)), blur, mode="wrap")
    return np.repeat((128 + values).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def write(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """GenEval's layout, two images of each of six prompts; the second folder is blurred."""
    both = []
    for name, blur in (("sharp", 0.0), ("soft", 1.0)):
        images = {f"{i:05d}/samples/{n:04d}.png": noise(2 * i + n, blur) for i in range(6) for n in range(2)}
        both.append(write(tmp_path / name, images))
        for i in range(6):
            (both[-1] / f"{i:05d}" / "metadata.jsonl").write_text(
                json.dumps({"prompt": f"noise {i}"}), encoding="utf-8"
            )
    return both[0], both[1]


# --- spectrum -------------------------------------------------------------------------------------------------------


def test_white_noise_has_its_variance_at_every_frequency():
    spectra = np.array([radial_spectrum(noise(seed)) for seed in range(200)])
    variance = np.mean([(noise(seed)[..., 0] / 255).var() for seed in range(200)])
    assert spectra.mean(0)[2:] == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("cycles", [4, 9, 25])
def test_a_wave_peaks_at_its_frequency(cycles: int):
    wave = 128 + 100 * np.sin(2 * np.pi * cycles * np.arange(64) / 64)
    image = np.repeat(np.tile(wave, (64, 1)).astype(np.uint8)[..., None], 3, axis=2)
    spectrum = radial_spectrum(image)
    assert frequencies(len(spectrum))[spectrum.argmax()] == pytest.approx(cycles / 64, abs=1 / 64)


def test_a_blur_lowers_power_by_its_known_transfer_function():
    sigma = 0.8
    ratio = np.mean([radial_spectrum(noise(s, sigma)) for s in range(200)], 0) / np.mean(
        [radial_spectrum(noise(s)) for s in range(200)], 0
    )
    expected = np.exp(-((2 * np.pi * frequencies(32) * sigma) ** 2))
    assert ratio[3:12] == pytest.approx(expected[3:12], rel=0.15)


def test_an_image_of_one_colour_has_no_detail():
    assert radial_spectrum(np.full((32, 48, 3), 77, np.uint8)) == pytest.approx(np.zeros(16), abs=1e-12)


def test_equal_images_keep_everything_and_a_blur_loses_the_high_band():
    sharp, soft = (np.array([radial_spectrum(noise(s, blur)) for s in range(12)]) for blur in (0, 1.0))
    strata = [s // 2 for s in range(12)]
    assert {band.ratio for band in band_ratios(sharp, sharp, strata).values()} == {1.0}
    bands = band_ratios(sharp, soft, strata)
    assert bands["low"].ratio > 0.7
    assert bands["high"].ratio < 0.05
    assert bands["high"].interval[0] <= bands["high"].ratio <= bands["high"].interval[1]


# --- distances ------------------------------------------------------------------------------------------------------


def test_cmmd_is_the_sum_over_all_pairs_by_hand():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))

    def mean_kernel(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
        return float(np.mean([np.exp(-((x - y) ** 2).sum() / (2 * CMMD_SIGMA**2)) for x in a for y in b]))

    by_hand = 1000 * (mean_kernel(one, one) + mean_kernel(other, other) - 2 * mean_kernel(one, other))
    assert cmmd(one, other) == pytest.approx(by_hand, rel=1e-6)
    assert cmmd(one, one) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_of_known_gaussians_is_known():
    rng = np.random.default_rng(0)
    one = rng.normal(0, 1, (20_000, 3))
    assert frechet(one, one + np.array([3.0, 0, 0])) == pytest.approx(9.0, rel=1e-3)
    assert frechet(one, 2 * one) == pytest.approx(3.0, rel=0.05)


# --- CLIP -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_embeddings_do_not_depend_on_their_batch(clip: Path):
    embedder = ClipEmbedder(str(clip), "cpu")
    images = [noise(seed) for seed in range(3)]
    alone = np.concatenate([embedder.images([image]) for image in images])
    assert embedder.images(images) == pytest.approx(alone, abs=1e-5)
    assert len(embedder.texts(["a", "a longer text"])) == 2


def test_the_clip_score_is_the_cosine_and_never_negative():
    images, texts = np.array([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), np.array([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert clip_scores(images, texts) == pytest.approx([100, 100 / np.sqrt(2), 0])


def test_all_figures_of_a_clip_model_are_there(folders: tuple[Path, Path], clip: Path):
    settings = FidelityParams(spectrum=False, clip=str(clip), inception=False)
    found = measure(*folders, settings, device="cpu")
    assert found["spectrum"] is found["inception"] is None
    assert found["clip"]["cmmd"] > 0
    assert found["clip"]["frechet"] > 0
    assert set(found["clip"]["score"]) == {"reference", "other"}
    assert len(found["clip"]["model"]["digest"]) == 64
    same = measure(folders[0], folders[0], settings, device="cpu")
    assert same["clip"]["cmmd"] == pytest.approx(0, abs=1e-6)


# --- folders, command and stage -------------------------------------------------------------------------------------


def test_images_are_paired_by_name_and_what_is_left_over_is_named(folders: tuple[Path, Path]):
    (folders[1] / "00000" / "samples" / "0000.png").unlink()
    Image.new("RGB", (8, 8)).save(folders[0] / "00000" / "grid.png")
    (folders[0] / "00001" / "samples" / "0000.png").write_bytes(b"no image")
    found = measure(*folders, SPECTRUM, device="cpu")
    assert found["pairs"]["n"] == 10
    assert found["pairs"]["unpaired"] == ["00000/samples/0000.png"]
    assert [failure["image"] for failure in found["pairs"]["failures"]] == ["00001/samples/0000.png"]
    assert {pair.prompt for pair in find_pairs(*folders).pairs} == {f"noise {i}" for i in range(6)}


def test_wrong_folders_are_told(folders: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(MissingFileError, match="no such folder"):
        measure(folders[0], tmp_path / "nowhere", SPECTRUM, device="cpu")
    with pytest.raises(EvaluationError, match="the same name"):
        measure(folders[0], write(tmp_path / "others", {"x.png": noise(0)}), SPECTRUM, device="cpu")
    write(folders[1], {"00003/samples/0000.png": noise(0, side=32)})
    with pytest.raises(EvaluationError, match="32x32 px, others have 64x64 px"):
        measure(*folders, SPECTRUM, device="cpu")


def test_an_inception_network_that_is_not_installed_is_told(folders: tuple[Path, Path]):
    with pytest.raises(EvaluationError, match=r"torch-fidelity.*l2p\[fid\]"):
        measure(*folders, FidelityParams(spectrum=False, clip=None, inception=True), device="cpu")


def test_the_command_prints_bands_and_distances(folders: tuple[Path, Path], clip: Path, tmp_path: Path):
    out = tmp_path / "out.json"
    done = CliRunner().invoke(app, ["distance", *map(str, folders), "--clip", str(clip), "--json", str(out)])
    assert done.exit_code == 0, done.output
    assert "12 pairs of images, 64x64 px" in done.stdout
    assert "high 0.25 to 0.50 cycles/px: 0.0" in done.stdout
    assert "CMMD" in done.stdout
    assert "CLIP score of other" in done.stdout
    assert json.loads(out.read_text(encoding="utf-8"))["spectrum"]["bands"]["high"]["ratio"] < 0.1


def test_a_model_that_is_no_clip_is_told(folders: tuple[Path, Path], tiny_source: Path):
    with pytest.raises(L2PError, match=r"fidelity\.clip"):
        measure(*folders, FidelityParams(spectrum=False, clip=str(tiny_source), inception=False), device="cpu")


def test_the_stage_compares_the_images_of_geneval(workspace: Path):
    for model, blur in (("source", 0.0), ("pixel", 1.0)):
        write(Layout.geneval / model / "images", {f"00000/samples/{n:04d}.png": noise(n, blur) for n in range(3)})
    fidelity.run(load_params())
    assert read_fidelity()["pairs"]["n"] == 3
    assert read_fidelity()["spectrum"]["bands"]["high"]["ratio"] < 0.1
