"""A file in the official layout computes what its authors compute, by a second forward pass written from the facts.

The reference below shares no code with the package: tokens (ph, pw, c), learned padding to multiples of 32, rotary
positions on three axes, time 1 - sigma, sandwich norms, SwiGLU, and an output that is x0 - eps. It runs in float64.
"""

# C channels, H W pixels, D width, h w token grid, P patch side, N tokens, K heads, L caption tokens

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.formats.importing import import_file
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.sampling import draw_images
from l2p.models.source import pin_source

PATCH, DIM, HEADS, CAPTION_DIM, LAYERS, REFINERS, WIDTHS = 16, 64, 2, 32, 3, 1, (4, 8, 8, 16)
AXES, THETA, TIME_SCALE, EPS, MULTIPLE = (8, 12, 12), 256.0, 1000.0, 1e-5, 32
TOLERANCE = 2e-5  # of the largest velocity: float32 against float64
FFN, TIME_DIM, TIME_HIDDEN = DIM * 8 // 3, 64, 1024

Weights = dict[str, Tensor]


def official_shapes() -> dict[str, list[int]]:
    """The published key layout at the size of the tiny source."""
    shapes: dict[str, list[int]] = {
        f"all_x_embedder.{PATCH}-1.weight": [DIM, 3 * PATCH**2],
        f"all_x_embedder.{PATCH}-1.bias": [DIM],
        "cap_embedder.0.weight": [CAPTION_DIM],
        "cap_embedder.1.weight": [DIM, CAPTION_DIM],
        "cap_embedder.1.bias": [DIM],
        "t_embedder.mlp.0.weight": [TIME_HIDDEN, 256],
        "t_embedder.mlp.0.bias": [TIME_HIDDEN],
        "t_embedder.mlp.2.weight": [TIME_DIM, TIME_HIDDEN],
        "t_embedder.mlp.2.bias": [TIME_DIM],
        "x_pad_token": [1, DIM],
        "cap_pad_token": [1, DIM],
    }
    blocks = [f"layers.{i}" for i in range(LAYERS)] + [f"noise_refiner.{i}" for i in range(REFINERS)]
    for block in (*blocks, *(f"context_refiner.{i}" for i in range(REFINERS))):
        shapes |= {f"{block}.attention.{name}.weight": [DIM, DIM] for name in ("to_q", "to_k", "to_v", "to_out.0")}
        shapes |= {f"{block}.attention.norm_{name}.weight": [DIM // HEADS] for name in "qk"}
        shapes |= {f"{block}.feed_forward.w{i}.weight": [DIM, FFN] if i == 2 else [FFN, DIM] for i in (1, 2, 3)}
        shapes |= {f"{block}.{name}{i}.weight": [DIM] for name in ("attention_norm", "ffn_norm") for i in (1, 2)}
    for block in blocks:
        shapes |= {f"{block}.adaLN_modulation.0.weight": [4 * DIM, TIME_DIM]}
        shapes |= {f"{block}.adaLN_modulation.0.bias": [4 * DIM]}
    inner = [3, *WIDTHS]
    convolutions = {"bottleneck.0": [WIDTHS[-1], WIDTHS[-1] + DIM, 1, 1], "out_conv": [3, WIDTHS[0], 1, 1]}
    for level, width in enumerate(WIDTHS, start=1):
        convolutions |= {
            f"enc{level}.0": [width, inner[level - 1], 3, 3],
            f"up{level}.1": [width, width, 3, 3],
            f"dec{level}.0": [WIDTHS[max(level - 2, 0)], 2 * width, 3, 3],
        }
    for name, shape in convolutions.items():
        shapes |= {f"local_decoder.{name}.weight": shape, f"local_decoder.{name}.bias": shape[:1]}
    return shapes


def random_weights() -> Weights:
    """Values that leave every part of the model of one size, so that a wrong part shows."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in official_shapes().items():
        noise = torch.randn(shape, generator=generator)
        norm = "norm" in name or name == "cap_embedder.0.weight"
        fan_in = math.prod(shape[1:]) if len(shape) > 1 and "pad_token" not in name else 25
        weights[name] = 1 + 0.1 * noise if norm else noise / math.sqrt(fan_in)
    return weights


def to_comfyui(published: Weights) -> Weights:
    """ComfyUI's spelling of an official file: a prefix, other names, q over k over v."""
    respelled = {}
    for name, tensor in published.items():
        if ".to_q." in name:
            rows = [published[name.replace(".to_q.", f".to_{part}.")] for part in "qkv"]
            respelled[name.replace("to_q", "qkv")] = torch.cat(rows)
        elif ".to_k." not in name and ".to_v." not in name:
            name = name.replace("to_out.0", "out").replace("norm_q", "q_norm").replace("norm_k", "k_norm")
            respelled[name.replace("all_x_embedder.16-1", "x_embedder")] = tensor
    return {f"model.diffusion_model.{name}": tensor for name, tensor in respelled.items()}


def reference_velocity(weights: Weights, pixels_CHW: Tensor, sigma: float, caption_LD: Tensor) -> Tensor:
    """eps - x0 [3, H, W] in float64 of noisy pixels [3, H, W] at `sigma` (1 = noise), for one caption [L, D]."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    pixels, caption = pixels_CHW.double(), caption_LD.double()
    grid = (pixels.shape[1] // PATCH, pixels.shape[2] // PATCH)
    patches = pixels.reshape(3, grid[0], PATCH, grid[1], PATCH).permute(1, 3, 2, 4, 0).reshape(-1, 3 * PATCH**2)
    image = padded(linear(w, f"all_x_embedder.{PATCH}-1", patches), w["x_pad_token"])
    text = padded(linear(w, "cap_embedder.1", rms(w, "cap_embedder.0", caption)), w["cap_pad_token"])
    text_at = torch.tensor([(1 + i, 0, 0) for i in range(len(text))])
    image_at = torch.zeros(len(image), 3, dtype=torch.long)  # padding stays at the origin
    image_at[: len(patches)] = torch.tensor([(len(text) + 1, i, j) for i in range(grid[0]) for j in range(grid[1])])
    time = time_embedding(w, 1 - sigma)
    for i in range(REFINERS):
        image = block(w, f"noise_refiner.{i}", image, image_at, time)
        text = block(w, f"context_refiner.{i}", text, text_at, None)
    tokens, tokens_at = torch.cat([image, text]), torch.cat([image_at, text_at])
    for i in range(LAYERS):
        tokens = block(w, f"layers.{i}", tokens, tokens_at, time)
    features_Dhw = tokens[: len(patches)].T.reshape(DIM, *grid)
    return -local_decoder(w, pixels, features_Dhw)


def padded(tokens_ND: Tensor, pad_token_1D: Tensor) -> Tensor:
    return torch.cat([tokens_ND, pad_token_1D.expand(-len(tokens_ND) % MULTIPLE, -1)])


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1))


def rms(w: Weights, name: str, x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * w[f"{name}.weight"]


def time_embedding(w: Weights, time: float) -> Tensor:
    frequencies = 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    angles = time * TIME_SCALE * frequencies
    return linear(w, "t_embedder.mlp.2", F.silu(linear(w, "t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()]))))


def block(w: Weights, name: str, x_ND: Tensor, at_N3: Tensor, time_D: Tensor | None) -> Tensor:
    if time_D is None:
        scale_1, gate_1, scale_2, gate_2 = 1.0, 1.0, 1.0, 1.0
    else:
        shift = linear(w, f"{name}.adaLN_modulation.0", time_D).chunk(4)
        scale_1, gate_1, scale_2, gate_2 = 1 + shift[0], shift[1].tanh(), 1 + shift[2], shift[3].tanh()
    attended = attention(w, f"{name}.attention", rms(w, f"{name}.attention_norm1", x_ND) * scale_1, at_N3)
    x_ND = x_ND + gate_1 * rms(w, f"{name}.attention_norm2", attended)
    inner = rms(w, f"{name}.ffn_norm1", x_ND) * scale_2
    gated = F.silu(linear(w, f"{name}.feed_forward.w1", inner)) * linear(w, f"{name}.feed_forward.w3", inner)
    return x_ND + gate_2 * rms(w, f"{name}.ffn_norm2", linear(w, f"{name}.feed_forward.w2", gated))


def attention(w: Weights, name: str, x_ND: Tensor, at_N3: Tensor) -> Tensor:
    q, k, v = (linear(w, f"{name}.to_{part}", x_ND).unflatten(1, (HEADS, -1)).transpose(0, 1) for part in "qkv")
    q, k = rotated(rms(w, f"{name}.norm_q", q), at_N3), rotated(rms(w, f"{name}.norm_k", k), at_N3)
    weights = (q @ k.transpose(1, 2) / math.sqrt(DIM // HEADS)).softmax(-1)
    return linear(w, f"{name}.to_out.0", (weights @ v).transpose(0, 1).flatten(1))


def rotated(x_KNd: Tensor, at_N3: Tensor) -> Tensor:
    """Each pair of neighbouring values turned by its frequency times the position on its axis."""
    angles = torch.cat(
        [at_N3[:, i, None] * THETA ** (-torch.arange(0, d, 2, dtype=torch.float64) / d) for i, d in enumerate(AXES)], 1
    )
    even, odd = x_KNd[..., 0::2], x_KNd[..., 1::2]
    turned = even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()
    return torch.stack(turned, -1).flatten(-2)


def local_decoder(w: Weights, pixels_CHW: Tensor, features_Dhw: Tensor) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        kernel = w[f"local_decoder.{name}.weight"]
        return F.conv2d(x, kernel, w[f"local_decoder.{name}.bias"], padding=kernel.shape[-1] // 2)

    x, skips = pixels_CHW[None], []
    for level in range(1, len(WIDTHS) + 1):
        skips.append(F.silu(conv(f"enc{level}.0", x)))
        x = F.max_pool2d(skips[-1], 2)
    x = F.silu(conv("bottleneck.0", torch.cat([x, features_Dhw[None]], 1)))
    for level in range(len(WIDTHS), 0, -1):
        x = conv(f"up{level}.1", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        x = F.silu(conv(f"dec{level}.0", torch.cat([x, skips[level - 1]], 1)))
    return conv("out_conv", x)[0]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


@pytest.fixture(scope="module", params=["official", "comfyui"])
def imported(
    request: pytest.FixtureRequest, weights: Weights, tiny_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A file with these weights, in either spelling, as a delta of ours."""
    folder = tmp_path_factory.mktemp("official")
    written = weights if request.param == "official" else to_comfyui(weights)
    save_file(written, folder / "model-1k-merge.safetensors")
    import_file(folder / "model-1k-merge.safetensors", folder / "imported", pin=pin_source(str(tiny_source)))
    return folder / "imported"


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("sigma", [1.0, 0.43, 0.05])
@pytest.mark.parametrize(
    ("size", "caption_tokens"),
    [((48, 80), 7), ((96, 112), 37), ((64, 128), 32)],
    ids=["15 + 7 tokens", "42 + 37 tokens", "32 + 32 tokens"],
)
def test_the_velocity_of_an_official_file_is_the_references(
    weights: Weights, imported: Path, size: tuple[int, int], caption_tokens: int, sigma: float
) -> None:
    model = load_pixel_model(imported)
    pixels, caption = drawn(3, *size), drawn(caption_tokens, CAPTION_DIM)
    expected = reference_velocity(weights, pixels, sigma, caption)
    with torch.no_grad():
        found = model(pixels[None], torch.tensor([sigma]), model.adapter.collate([{"cap_feats": caption}]))[0]
    assert expected.std() > 0.01
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    "broken",
    ["sign", "columns", "padding", "time", "queries and keys", "caption order"],
)
def test_the_reference_sees_each_of_the_details_that_bite(weights: Weights, broken: str) -> None:
    """What the comparison above would find: each mistake moves the velocity far beyond its tolerance."""
    pixels, caption, sigma, wrong = drawn(3, 48, 80), drawn(7, CAPTION_DIM), 0.43, dict(weights)
    right = reference_velocity(weights, pixels, sigma, caption)
    if broken == "sign":
        wrong |= {name: -weights[name] for name in ("local_decoder.out_conv.weight", "local_decoder.out_conv.bias")}
    elif broken == "columns":
        name = f"all_x_embedder.{PATCH}-1.weight"
        wrong[name] = weights[name].unflatten(1, (3, PATCH**2)).transpose(1, 2).flatten(1)
    elif broken == "padding":
        wrong |= {"x_pad_token": torch.zeros(1, DIM), "cap_pad_token": torch.zeros(1, DIM)}
    elif broken == "time":
        sigma = 1 - sigma
    elif broken == "queries and keys":
        names = [f"layers.0.attention.{kind}" for kind in ("to_q.weight", "to_k.weight")]
        wrong |= dict(zip(names, [weights[name] for name in reversed(names)], strict=True))
    else:
        caption = caption.flip(0)
    change = (reference_velocity(wrong, pixels, sigma, caption) - right).abs().max()
    assert change > 20 * TOLERANCE * right.abs().max()


def test_one_euler_step_with_shift_3_is_the_references(weights: Weights, imported: Path) -> None:
    model, steps, at = load_pixel_model(imported), 4, 1
    shift = read_delta_card(imported)["sampler"]["shift"]
    pixels, caption = drawn(3, 48, 80), drawn(7, CAPTION_DIM)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    sigma = scheduler.sigmas[at]
    with torch.no_grad():
        velocity = model(pixels[None], sigma[None], model.adapter.collate([{"cap_feats": caption}]))
        found = scheduler.step(velocity, scheduler.timesteps[at], pixels[None]).prev_sample[0]

    shifted = [3 * u / (1 + 2 * u) for u in (1 - i / steps for i in range(steps + 1))]
    expected = pixels + (shifted[at + 1] - shifted[at]) * reference_velocity(weights, pixels, shifted[at], caption)
    torch.testing.assert_close(found.double(), expected, atol=TOLERANCE, rtol=0)


def test_a_whole_guided_drawing_is_the_references(weights: Weights, imported: Path) -> None:
    steps, size, guidance = 3, (48, 80), 1.0
    captions = {"prompt": drawn(7, CAPTION_DIM), "empty": drawn(5, CAPTION_DIM)}
    embeddings: dict[str, Any] = {name: {"cap_feats": caption} for name, caption in captions.items()}
    found = draw_images(
        load_pixel_pipeline(imported),
        [embeddings["prompt"]],
        empty=embeddings["empty"],
        size_px=size,
        num_steps=steps,
        guidance_scale=guidance,
        seeds=[5],
    )[0]

    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(5))[0].double()
    sigmas = [3 * u / (1 + 2 * u) for u in (1 - i / steps for i in range(steps + 1))]
    for sigma, next_sigma in pairwise(sigmas):
        with_text, without = (reference_velocity(weights, pixels, sigma, caption) for caption in captions.values())
        pixels = pixels + (next_sigma - sigma) * (with_text + guidance * (with_text - without))
    expected = ((pixels.clamp(-1, 1) / 2 + 0.5) * 255).permute(1, 2, 0).round()
    assert expected.std() > 20
    assert (torch.from_numpy(found.astype(int)) - expected).abs().max() <= 1
