"""The heads compute what they say, from one patch of 16 pixels to 160, at a bounded cost."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bench.heads import TOKEN_DIM, count_head
from l2p.errors import ModelError
from l2p.models.head import HEAD_TYPES, DetailerHead, build_head
from l2p.models.unet_head import MIN_GROUP_CHANNELS, ResBlock, UNetHead, ZeroConv2d, group_norm
from l2p.models.weights import materialise

PATCHES = (16, 32, 64, 128, 160)
WIDTHS = (64, 128, 256, 512)
DIM = 6
GOLDEN = {  # by head and patch: two pixels of the output, its mean and its standard deviation
    ("official", 4): [-0.808520, -0.232689, 0.683619, -0.933268, 0.082411, 0.869156, 0.022918, 0.633676],
    ("unet", 4): [-1.139521, -0.216669, 0.714471, -0.888187, -0.170253, 0.710750, -0.130618, 0.735419],
    ("unet", 12): [-0.718583, -0.536605, -0.175957, -0.975086, -0.564421, 0.369167, -0.254294, 0.522491],
}


def tiny(head_type: str, patch_size: int = 4, widths: tuple[int, ...] = (8, 12)) -> DetailerHead | UNetHead:
    torch.manual_seed(0)
    return build_head(head_type, DIM, patch_size=patch_size, widths=widths)


def wave(*shape: int, phase: float) -> Tensor:
    """Values in [-1, 1] that no change of torch's generator moves; a chirp, so that sums do not cancel."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.37 * index**2 + 1.7 * index + phase).float().view(shape)


def inputs(patch_size: int, rows: int = 2, columns: int = 3) -> tuple[Tensor, Tensor]:
    pixels = wave(2, 3, rows * patch_size, columns * patch_size, phase=0.5)
    return pixels, wave(2, DIM, rows, columns, phase=0.2)


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give every parameter values by a formula, of about the size of torch's own."""
    for number, (_, parameter) in enumerate(sorted(module.named_parameters())):
        parameter.copy_(wave(*parameter.shape, phase=number) / parameter[0].numel() ** 0.5)


def official_by_the_method(state: dict[str, Tensor], pixels_BCHW: Tensor, tokens_BDhw: Tensor) -> Tensor:
    """The published head, written from its description: no module of ours, its own pooling and upsampling."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def double(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def silu(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def halve(x: Tensor) -> Tensor:
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))

    enc1 = silu(conv("enc1.0", pixels_BCHW))
    enc2 = silu(conv("enc2.0", halve(enc1)))
    enc3 = silu(conv("enc3.0", halve(enc2)))
    enc4 = silu(conv("enc4.0", halve(enc3)))
    x = silu(conv("bottleneck.0", torch.cat([halve(enc4), tokens_BDhw], 1)))
    x = silu(conv("dec4.0", torch.cat([conv("up4.1", double(x)), enc4], 1)))
    x = silu(conv("dec3.0", torch.cat([conv("up3.1", double(x)), enc3], 1)))
    x = silu(conv("dec2.0", torch.cat([conv("up2.1", double(x)), enc2], 1)))
    x = silu(conv("dec1.0", torch.cat([conv("up1.1", double(x)), enc1], 1)))
    return conv("out_conv", x)


def test_the_official_head_has_the_published_tensors() -> None:
    weights = {
        **{"enc1.0": [64, 3, 3, 3], "enc2.0": [128, 64, 3, 3], "enc3.0": [256, 128, 3, 3], "enc4.0": [512, 256, 3, 3]},
        "bottleneck.0": [512, 512 + 3840, 1, 1],
        **{"up4.1": [512, 512, 3, 3], "up3.1": [256, 256, 3, 3], "up2.1": [128, 128, 3, 3], "up1.1": [64, 64, 3, 3]},
        **{"dec4.0": [256, 1024, 3, 3], "dec3.0": [128, 512, 3, 3], "dec2.0": [64, 256, 3, 3]},
        **{"dec1.0": [64, 128, 3, 3], "out_conv": [3, 64, 1, 1]},
    }
    expected = {f"{name}.weight": shape for name, shape in weights.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    head = build_head("official", 3840, patch_size=16, widths=WIDTHS)
    assert {name: list(tensor.shape) for name, tensor in head.state_dict().items()} == expected
    assert len(expected) == 28
    assert sum(tensor.numel() for tensor in head.parameters()) == 10_085_123


def test_the_official_head_computes_what_the_method_says() -> None:
    torch.manual_seed(0)
    head = DetailerHead(3840)
    pixels, tokens = torch.randn(2, 3, 32, 48), torch.randn(2, 3840, 2, 3)
    with torch.no_grad():
        expected = official_by_the_method(head.state_dict(), pixels, tokens)
        torch.testing.assert_close(head(pixels, tokens), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("head_type", "patch_size"), GOLDEN)
def test_the_heads_compute_what_they_did_when_they_were_written(head_type: str, patch_size: int) -> None:
    head = tiny(head_type, patch_size)
    fill(head)
    with torch.no_grad():
        out = head(*inputs(patch_size))
    found = [*out[0, :, 0, 0], *out[1, :, -1, -2], out.mean(), out.std()]
    torch.testing.assert_close(torch.stack(found), torch.tensor(GOLDEN[head_type, patch_size]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch_size", PATCHES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (3, 1)])
def test_the_unet_head_works_and_learns_at_every_patch(patch_size: int, rows: int, columns: int) -> None:
    head = tiny("unet", patch_size, (4, 4, 8, 8))
    pixels, tokens = (tensor.requires_grad_() for tensor in inputs(patch_size, rows, columns))
    out = head(pixels, tokens)
    assert out.shape == pixels.shape
    assert head.multiple_px == patch_size
    out.square().mean().backward()
    for name, tensor in (("pixels", pixels), ("tokens", tokens), *head.named_parameters()):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
    assert (pixels.grad != 0).all()
    assert (tokens.grad != 0).all()


def test_the_residual_blocks_start_as_the_identity() -> None:
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(ResBlock(8)(x), x)


@pytest.mark.parametrize("width", [1, 3, 4, 6, 20, 64, 96, 512])
def test_no_normalisation_takes_the_mean_of_single_channels(width: int) -> None:
    groups = group_norm(width).num_groups
    assert width % groups == 0
    assert groups == 1 or width // groups >= MIN_GROUP_CHANNELS


def test_a_larger_patch_makes_the_unet_head_cheaper_per_pixel() -> None:
    """Folded to 16 cells a token, the U-Net costs the same at every patch; only what sees each pixel grows."""
    counts = {patch: count_head("unet", patch, WIDTHS, token_dim=TOKEN_DIM) for patch in PATCHES}
    assert all(counts[a].operations_per_pixel > counts[b].operations_per_pixel for a, b in pairwise(PATCHES))
    per_folded_pixel = (counts[32].operations - counts[16].operations) // (2**2 - 1)
    for patch, count in counts.items():
        assert count.operations == counts[16].operations + ((patch // 16) ** 2 - 1) * per_folded_pixel
    assert 50 * counts[160].operations_per_pixel < counts[16].operations_per_pixel


def test_a_larger_patch_does_not_make_the_official_head_cheaper_per_pixel() -> None:
    """With the same widths each pixel costs the same; with levels added below, down to the tokens, it costs more."""
    smallest = count_head("official", 16, WIDTHS, token_dim=TOKEN_DIM).operations_per_pixel
    for patch in (64, 128, 160):
        assert count_head("official", patch, WIDTHS, token_dim=TOKEN_DIM).operations_per_pixel == smallest
        deeper = (*WIDTHS, *(512,) * (int(math.log2(patch)) - len(WIDTHS)))
        assert count_head("official", patch, deeper, token_dim=TOKEN_DIM).operations_per_pixel > smallest


def test_the_largest_map_of_the_official_head_is_its_outermost_skip_beside_what_came_up() -> None:
    count = count_head("official", 16, WIDTHS, token_dim=TOKEN_DIM)
    assert count.largest_bytes == 2 * (64 + 64) * 1024**2
    assert count.parameters == 10_085_123


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_a_head_built_without_memory_starts_like_one_built_with_it(head_type: str) -> None:
    with init_empty_weights(include_buffers=False):
        head = build_head(head_type, DIM, patch_size=16, widths=(8, 8, 12, 12))
    assert all(parameter.is_meta for parameter in head.parameters())
    materialise(head, head.state_dict())
    assert not any(parameter.is_meta for parameter in head.parameters())
    for name, module in head.named_modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, ZeroConv2d):
                assert not parameter.any(), name
            elif isinstance(module, nn.GroupNorm):
                assert parameter.unique().tolist() == ([1.0] if parameter is module.weight else [0.0]), name
            else:
                assert 0 < parameter.abs().max() <= 1, name
    assert any(isinstance(module, ZeroConv2d) for module in head.modules()) == (head_type == "unet")


@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_a_head_told_to_put_out_zero_does_and_still_learns(head_type: str) -> None:
    head = tiny(head_type)
    head.zero_output()
    out = head(*inputs(4))
    assert not out.any()
    (out - 1).square().mean().backward()
    assert head.out_conv.weight.grad.any()
    assert head.out_conv.bias.requires_grad


@pytest.mark.parametrize("head_type", HEAD_TYPES)
@pytest.mark.parametrize("tokens_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_of_another_dtype_are_read(head_type: str, dtype: torch.dtype, tokens_dtype: torch.dtype) -> None:
    head, (pixels, tokens) = tiny(head_type), inputs(4)
    expected = head(pixels, tokens)
    out = head.to(dtype)(pixels.to(dtype), tokens.to(tokens_dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("head_type", HEAD_TYPES)
@pytest.mark.parametrize("tokens_dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_heads_put_out_and_learn_about_the_same(head_type: str, tokens_dtype: torch.dtype) -> None:
    head, (pixels, tokens) = tiny(head_type), inputs(4)
    expected = head(pixels, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        out = head(pixels, tokens.to(tokens_dtype))
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.02)
    out.float().square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in head.parameters())


def test_where_the_official_head_has_more_places_than_tokens_each_takes_the_nearest() -> None:
    """As at patch 160 with six levels, where a token covers 2.5 places: here patch 10 and two levels."""
    head, (pixels, tokens) = tiny("official", 10), inputs(10, rows=2, columns=4)
    seen: dict[str, Tensor] = {}
    head.bottleneck.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    out = head(pixels, tokens.requires_grad_())
    nearest = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert torch.equal(seen["x"][:, -DIM:], tokens[:, :, nearest[:5]][:, :, :, nearest])
    assert out.shape == pixels.shape
    out.square().mean().backward()
    assert (tokens.grad != 0).all()


@pytest.mark.parametrize(
    ("head_type", "patch_size", "widths", "expected"),
    [
        ("vae", 16, WIDTHS, ["convert.head.type = 'vae'", "official or unet"]),
        ("unet", 16, (), ["convert.head.widths = []", "at least one level"]),
        ("official", 16, (8, 0), ["convert.head.widths = [8, 0]", "1 or more"]),
        ("official", 16, (4,) * 5, ["convert.head.widths has 5 levels", "patch 16", "at most 4", "at least 32"]),
        ("official", 1, (4,), ["convert.head.widths has 1 levels", "Use a convert.patch_size_px of at least 2"]),
        ("unet", 24, (4,) * 4, ["patch_size_px = 24 with 4 levels", "multiple of 16", "16 or 32", "at most 3 entries"]),
        ("unet", 8, (4,) * 4, ["patch_size_px = 8 with 4 levels", "Choose 16 pixels", "at most 3 entries"]),
        ("unet", 15, (4,), ["patch_size_px = 15 with 1 levels", "Choose 14 or 16 pixels."]),
    ],
)
def test_a_head_that_does_not_fit_is_refused_with_what_would(
    head_type: str, patch_size: int, widths: tuple[int, ...], expected: list[str]
) -> None:
    with pytest.raises(ModelError) as error:
        build_head(head_type, DIM, patch_size=patch_size, widths=widths)
    for part in expected:
        assert part in str(error.value)


def test_the_unet_head_refuses_the_tokens_of_another_image() -> None:
    head, (pixels, _) = tiny("unet"), inputs(4)
    with pytest.raises(ModelError, match=r"12x8 pixels with a token map of 2x3: at patch 4 .* 8x12 pixels"):
        head(pixels, torch.zeros(2, DIM, 3, 2))
