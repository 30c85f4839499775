"""Round trips of the path, the shift and the loss."""

from __future__ import annotations

import pytest
import torch

from l2p.diffusion.loss import flow_matching_loss
from l2p.diffusion.path import interpolate, velocity, velocity_from_x0, x0_from_velocity
from l2p.diffusion.timesteps import draw_sigma, shift_sigma, unshift_sigma


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 3, 8, 8, generator=generator)
    return x0, noise, torch.tensor([0.01, 0.25, 0.5, 0.9, 1.0])


def test_the_path_starts_at_the_image_and_ends_at_noise(pair: tuple) -> None:
    x0, noise, _ = pair
    assert torch.equal(interpolate(x0, noise, torch.zeros(5)), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(5)), noise)


def test_image_to_velocity_and_back_is_the_identity(pair: tuple) -> None:
    x0, noise, sigma = pair
    noisy = interpolate(x0, noise, sigma)
    v = velocity_from_x0(noisy, x0, sigma)
    torch.testing.assert_close(v, velocity(x0, noise), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(x0_from_velocity(noisy, v, sigma), x0, atol=1e-5, rtol=1e-5)


def test_one_euler_step_from_noise_along_the_true_velocity_gives_the_image(pair: tuple) -> None:
    x0, noise, _ = pair
    torch.testing.assert_close(noise + (0 - 1) * velocity(x0, noise), x0, atol=1e-6, rtol=1e-6)


def test_shift_and_unshift_are_inverse_and_keep_the_ends() -> None:
    sigma = torch.linspace(0, 1, 11)
    torch.testing.assert_close(unshift_sigma(shift_sigma(sigma, 3.0), 3.0), sigma)
    assert shift_sigma(torch.tensor([0.0, 1.0]), 3.0).tolist() == [0.0, 1.0]
    assert shift_sigma(torch.tensor([0.5]), 3.0).item() == pytest.approx(0.75)


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "official_1k"])
def test_drawn_sigmas_are_noise_levels_and_depend_on_the_generator_alone(kind: str) -> None:
    draws = [draw_sigma(kind, 4000, shift=3.0, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert draws[0].min() > 0
    assert draws[0].max() <= 1


def test_the_official_draw_is_one_ninth_pure_noise_and_never_low() -> None:
    sigma = draw_sigma("official_1k", 20_000, shift=3.0, generator=torch.Generator().manual_seed(1))
    assert (sigma == 1).float().mean().item() == pytest.approx(101 / 900, abs=0.01)
    assert sigma.min() > 0.42


def test_the_loss_of_the_truth_is_zero_in_both_parametrisations(pair: tuple) -> None:
    x0, noise, sigma = pair
    for kind, truth in (("velocity", velocity(x0, noise)), ("x0", x0)):
        loss, per_sample = flow_matching_loss(truth, x0, noise, sigma, prediction_type=kind, min_sigma=0.2)
        assert (loss.item(), per_sample.shape) == (0, (5,))


def test_an_image_error_weighs_as_its_velocity_error_above_the_clamp(pair: tuple) -> None:
    x0, noise, sigma = pair
    guess = x0 + 0.1
    v = velocity_from_x0(interpolate(x0, noise, sigma), guess, sigma)
    _, as_image = flow_matching_loss(guess, x0, noise, sigma, prediction_type="x0", min_sigma=0.2)
    _, as_velocity = flow_matching_loss(v, x0, noise, sigma, prediction_type="velocity", min_sigma=0.2)
    torch.testing.assert_close(as_image[1:], as_velocity[1:], rtol=1e-4, atol=1e-5)
    assert as_image[0] < as_velocity[0]
