"""The worked example of CONTRIBUTING, "Adding a source", runs: against the real class and its own pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from l2p.models.adapters import ADAPTERS, Adapter, captions
from tests.models.conformance import calls_of, latent_graft

FAMILY = "ErnieImageTransformer2DModel"
MAX_LINES = 40
TINY = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_layers": 4,
    "ffn_hidden_size": 64,
    "text_in_dim": 32,
    "rope_axes_dim": (8, 12, 12),
}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Adapter:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(class ErnieImageAdapter.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) <= MAX_LINES
    names: dict[str, Any] = {"Adapter": Adapter, "pad": captions.pad, "torch": torch}
    exec(code, names)
    found: Adapter = names["ErnieImageAdapter"]()
    monkeypatch.setitem(ADAPTERS, FAMILY, found)
    return found


@pytest.fixture
def source() -> Any:
    torch.manual_seed(0)
    source = diffusers.ErnieImageTransformer2DModel(**TINY).eval()
    for parameter in source.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return source


def embeddings() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"captions": torch.randn(length, 32, generator=generator)} for length in (5, 9)]


def test_the_example_returns_the_tokens_that_enter_the_sources_last_layer(adapter: Adapter, source: Any) -> None:
    latents, sigma, text = torch.randn(2, 128, 3, 5), torch.tensor([0.3, 0.9]), adapter.collate(embeddings())
    with torch.no_grad():
        tokens = adapter.call(latent_graft(source), F.pixel_unshuffle(latents, 1), sigma, text)
    seen: list[torch.Tensor] = []
    source.final_norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        source(**adapter.arguments(latents, sigma, text, config=source.config, guidance_B=None))
    expected = seen[0][:15].permute(1, 2, 0).unflatten(2, (3, 5))
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


def test_the_example_passes_what_the_sources_own_pipeline_passes(adapter: Adapter, source: Any) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = diffusers.ErnieImagePipeline(
        transformer=source, vae=None, text_encoder=None, tokenizer=None, scheduler=scheduler
    )
    pipeline.set_progress_bar_config(disable=True)
    inputs = adapter.pipeline_inputs(embeddings()[:1], [])
    del inputs["negative_prompt_embeds"]
    with calls_of(pipeline) as calls:
        pipeline(height=48, width=80, num_inference_steps=3, guidance_scale=1.0, output_type="latent", **inputs)
    for step, given in enumerate(calls[:2]):
        expected = adapter.arguments(
            torch.zeros(1, 768, 3, 5),
            scheduler.sigmas[step : step + 1],
            adapter.collate(embeddings()[:1]),
            config=source.config,
            guidance_B=None,
        )
        assert given["hidden_states"].shape[-2:] == expected["hidden_states"].shape[-2:]
        for name in ("timestep", "text_bth", "text_lens"):
            torch.testing.assert_close(given[name].float(), expected[name].float())
