"""Every published source at full size, on the meta device: the published size, and the same tensors in its graft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from l2p.cli import app
from l2p.config import load_params
from l2p.models.adapters import ADAPTERS
from l2p.models.families import NAMES, KnownSource, known_sources, read_known
from l2p.models.families.sizes import TRAINED_ENDS, count_sizes, empty_pixel_model, empty_source
from l2p.models.pixel_transformer import PixelTransformer, parameters_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use

# Billions of parameters as published by the authors, and the width of a token.
PUBLISHED = {
    "z-image": (6.155, 3840),
    "flux1-dev": (11.90, 3072),
    "flux1-schnell": (11.89, 3072),
    "flux2-dev": (32.2, 6144),
    "sd35-medium": (2.24, 1536),
    "sd35-large": (8.06, 2432),
    "qwen-image": (20.4, 3072),
    "lumina2": (2.61, 2304),
    "sana": (1.60, 2240),
    "auraflow": (6.86, 3072),
    "cogview4": (6.37, 4096),
    "chroma": (8.90, 3072),
}


@pytest.fixture(scope="module", params=NAMES)
def known(request: pytest.FixtureRequest) -> KnownSource:
    return read_known(request.param)


@pytest.fixture(scope="module")
def model(known: KnownSource) -> PixelTransformer:
    return empty_pixel_model(known)


def test_every_family_has_a_published_source_and_the_other_way_round() -> None:
    assert {known.transformer_class for known in known_sources()} == set(ADAPTERS)
    assert set(PUBLISHED) == set(NAMES)


def test_the_source_has_the_published_size(known: KnownSource) -> None:
    billions, width = PUBLISHED[known.name]
    size = count_sizes(known)
    assert size.parameters / 1e9 == pytest.approx(billions, rel=0.005)
    assert size.token_dim == width


def test_the_pixel_model_needs_no_memory(model: PixelTransformer) -> None:
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_what_is_not_new_has_the_names_and_shapes_of_the_source(known: KnownSource, model: PixelTransformer) -> None:
    own = {
        f"dit.{name}": tensor.shape
        for name, tensor in empty_source(known).state_dict().items()
        if not model.adapter.left_behind(name)
    }
    new = set(model.new_tensors())
    assert {name: tensor.shape for name, tensor in model.state_dict().items() if name not in new} == own


def test_only_embedder_and_tail_are_left_behind(known: KnownSource, model: PixelTransformer) -> None:
    source = empty_source(known)
    left = sum(p.numel() for name, p in source.named_parameters() if model.adapter.left_behind(name))
    new = sum(model.get_parameter(name).numel() for name in model.new_tensors())
    assert parameters_of(source) - left + new == parameters_of(model)
    assert 0 < left < 0.02 * parameters_of(source)


def test_more_is_trained_with_more_blocks_and_never_all(known: KnownSource) -> None:
    size = count_sizes(known)
    counts = [size.trained[ends] for ends in TRAINED_ENDS]
    assert counts == sorted(set(counts))
    assert counts[-1] < size.parameters


def test_published_sources_draw_at_1024_pixels_with_their_native_patch(model: PixelTransformer) -> None:
    model.check_size(1024, 1024)


def test_the_text_of_a_published_source_is_what_its_adapter_collates(known: KnownSource) -> None:
    embedding = {key: torch.zeros(shape) for key, shape in known.text.items()}
    assert ADAPTERS[known.transformer_class].collate([embedding, embedding])


def test_no_embedder_at_a_native_patch_needs_a_bottleneck(known: KnownSource, model: PixelTransformer) -> None:
    largest = load_params(ROOT / "params.yaml").convert.embedder.max_parameters
    assert parameters_of(model.dit.get_submodule(model.adapter.embedder)) <= largest


def test_the_tables_of_the_documentation_are_what_the_command_counts() -> None:
    printed = CliRunner().invoke(app, ["sources", "--markdown"]).output.strip()
    page = (ROOT / "docs" / "supported-sources.md").read_text(encoding="utf-8")
    begin, end = "<!-- l2p sources --markdown -->", "<!-- end -->"
    assert page.partition(begin)[2].partition(end)[0].strip() == printed, "put the output between the two comments"


def test_the_command_names_every_published_source() -> None:
    printed = CliRunner().invoke(app, ["sources"]).output
    assert all(known.name in printed for known in known_sources())
