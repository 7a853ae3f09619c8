"""Theorems about the source path (M2)."""

import math

import pytest
import torch

from kvlock_core import (
    FreshNoisePath,
    GridMismatchError,
    NoisedPath,
    NonFiniteError,
    ScheduleError,
    SettingsError,
    SourceError,
    SourcePath,
    TrajectoryPath,
    invert,
    noised,
)

SHAPE = (2, 3, 3, 5, 7)
SOLVERS = ("euler", "rf_solver", "uni_inv")


def draw(seed, dtype=torch.float32):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def falling(n):
    return [1 - i / n for i in range(n)] + [0.0]


def growing(rate):
    """dz/dsigma = rate * z, so z(sigma) = exp(rate * sigma) * z(0)."""
    return lambda z, sigma: rate * z


def check_is_the_formula(implementation):
    z, noise = draw(1), draw(2)
    for s in (0.0, 0.3, 1.0):
        assert torch.allclose(implementation(z, noise, s), (1 - s) * z + s * noise, atol=1e-6)


def test_noised_is_the_formula_and_its_checker_bites():
    check_is_the_formula(noised)
    with pytest.raises(AssertionError):
        check_is_the_formula(lambda z, noise, s: noised(noise, z, s))
    with pytest.raises(AssertionError):
        check_is_the_formula(lambda z, noise, s: math.sqrt(1 - s * s) * z + s * noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ends_of_the_path_are_source_and_noise_exactly(dtype):
    z, noise = draw(1, dtype), draw(2, dtype)
    assert torch.equal(noised(z, noise, 0.0), z) and torch.equal(noised(z, noise, 1.0), noise)
    assert noised(z, noise, 0.4).dtype == dtype
    assert torch.equal(noised(z, noise, torch.tensor(0.25)), noised(z, noise, 0.25))


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: noised(draw(1), draw(2)[:1], 0.5), GridMismatchError, r"\(1, 3, 3, 5, 7\)"),
        (lambda: noised(draw(1), draw(2), 1.5), ScheduleError, "1.5"),
        (lambda: noised(draw(1), draw(2), math.nan), ScheduleError, "nan"),
        (lambda: noised(draw(1), draw(2), torch.tensor([0.1, 0.2])), ScheduleError, r"\(2,\)"),
    ],
)
def test_a_bad_call_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_every_path_is_a_source_path():
    z = draw(1)
    for path in (NoisedPath(z, draw(2)), FreshNoisePath(z, 3), TrajectoryPath((z, z), (1.0, 0.0))):
        assert isinstance(path, SourcePath)


def test_the_noised_path_keeps_one_draw_and_is_exact():
    path = NoisedPath(draw(1), draw(2))
    assert torch.equal(path.at(3, 0.5), path.at(4, 0.5))
    assert torch.equal(path.at(0, 0.5), noised(draw(1), draw(2), 0.5))
    assert path.reconstruction_error == 0.0


def test_fresh_noise_differs_by_step_and_seed_and_repeats():
    path = FreshNoisePath(draw(1), 11)
    assert torch.equal(path.at(3, 0.5), FreshNoisePath(draw(1), 11).at(3, 0.5))
    others = (path.at(4, 0.5), FreshNoisePath(draw(1), 12).at(3, 0.5))
    assert not any(torch.equal(path.at(3, 0.5), other) for other in others)
    assert torch.equal(path.at(3, 0.0), draw(1))


def test_a_stored_level_comes_back_as_the_stored_tensor():
    latents = [draw(i) for i in range(4)]
    path = TrajectoryPath(latents, [0.9, 0.7, 0.2, 0.0])
    for latent, sigma in zip(latents, path.sigmas):
        assert path.at(0, sigma) is latent
        assert path.at(0, float(torch.tensor(sigma))) is latent  # the host's float32 level


def test_between_levels_is_the_straight_line():
    a, b, c = draw(1), draw(2), draw(3)
    path = TrajectoryPath((a, b, c), (1.0, 0.6, 0.0))
    assert torch.allclose(path.at(0, 0.9), 0.75 * a + 0.25 * b, atol=1e-6)
    assert torch.allclose(path.at(0, 0.15), 0.25 * b + 0.75 * c, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 0.95, 1.2])
def test_outside_the_recorded_levels_is_named(sigma):
    path = TrajectoryPath((draw(1), draw(2)), (0.9, 0.1))
    with pytest.raises(ScheduleError, match=str(sigma)):
        path.at(0, sigma)


def counted(velocity):
    calls = []

    def counting(z, sigma):
        calls.append(sigma)
        return velocity(z, sigma)

    return counting, calls


@pytest.mark.parametrize("solver, evaluations", [("euler", 7), ("rf_solver", 14), ("uni_inv", 8)])
def test_number_of_evaluations(solver, evaluations):
    velocity, calls = counted(growing(1.0))
    path = invert(velocity, draw(1), falling(7), solver, measure=False)
    assert len(calls) == evaluations
    assert math.isnan(path.reconstruction_error)
    assert min(calls) == 0.0 and max(calls) <= 1.0


def error_at_the_top(path):
    exact = math.e * draw(1)
    return float((path.latents[0] - exact).norm() / exact.norm())


def check_order(implementation, order):
    """Halving the steps divides the error by 2^order."""
    errors = [error_at_the_top(implementation(growing(1.0), draw(1), falling(n))) for n in (8, 16, 32)]
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert slopes == pytest.approx([order] * 2, abs=0.25)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("rf_solver", 2), ("uni_inv", 1)])
def test_order_of_convergence(solver, order):
    check_order(lambda v, z, s: invert(v, z, s, solver, measure=False), order)


def test_the_order_checker_bites():
    with pytest.raises(AssertionError):
        check_order(lambda v, z, s: invert(v, z, s, "euler", measure=False), 2)
    with pytest.raises(AssertionError):  # wrong by a constant: does not converge at all
        check_order(lambda v, z, s: invert(growing(1.1), z, s, "rf_solver", measure=False), 2)


def test_uni_inv_leads_back_better_than_euler_at_one_more_evaluation():
    for velocity in (growing(1.0), growing(-2.0), lambda z, s: torch.sin(3 * z) + s):
        euler, uni = (invert(velocity, draw(1), falling(20), solver) for solver in ("euler", "uni_inv"))
        assert uni.reconstruction_error < 0.2 * euler.reconstruction_error


def test_the_reported_error_is_that_of_sampling_back():
    path = invert(growing(1.5), draw(1), falling(10), "euler")
    z = path.latents[0]
    for s, s_next in zip(path.sigmas, path.sigmas[1:]):
        z = z + (s_next - s) * 1.5 * z
    expected = (z - draw(1)).square().mean().sqrt() / draw(1).square().mean().sqrt()
    assert path.reconstruction_error == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_inverted_exactly_at_any_level(solver):
    z, noise = draw(1), draw(2)
    path = invert(lambda x, sigma: noise - z, z, [1.0, 0.7, 0.1, 0.0], solver)
    assert path.reconstruction_error < 1e-6
    for sigma in (1.0, 0.85, 0.3, 0.1, 0.04, 0.0):
        assert torch.allclose(path.at(0, sigma), noised(z, noise, sigma), atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_clean_end_is_the_source_bit_for_bit_in_its_dtype(solver):
    z = draw(1, torch.bfloat16)
    path = invert(growing(0.5), z, torch.linspace(0.8, 0, 5), solver)
    assert torch.equal(path.at(99, 0.0), z)
    assert {latent.dtype for latent in path.latents} == {torch.bfloat16}


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_model_is_asked_in_the_dtype_of_the_source(solver):
    asked = set()
    invert(lambda z, sigma: asked.add(z.dtype) or z, draw(1, torch.bfloat16), falling(3), solver)
    assert asked == {torch.bfloat16}


def test_one_step_further_noise_is_closer_for_every_state():
    """Latents lie in the order of their levels: the first is the noisiest."""
    path = invert(growing(1.0), draw(1), falling(5), "euler")
    sizes = [float(latent.norm()) for latent in path.latents]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ((growing(1), draw(1), falling(3), "heun"), SettingsError, "'heun'.*uni_inv"),
        ((growing(1), draw(1), [1.0, 0.5]), ScheduleError, "0.5"),
        ((growing(1), draw(1), [0.0]), ScheduleError, "clean"),
        ((growing(1), draw(1), [0.5, 0.7, 0.0]), ScheduleError, "0.5 is followed by 0.7"),
        ((growing(1), draw(1), [0.5, 0.5, 0.0]), ScheduleError, "0.5 is followed by 0.5"),
        ((growing(1), draw(1), [14.6, 0.5, 0.0]), ScheduleError, "14.6"),
        ((growing(1), draw(1), [math.nan, 0.5, 0.0]), ScheduleError, "nan"),
        ((growing(math.nan), draw(1), falling(3)), NonFiniteError, "sigma 0.0"),
        ((lambda z, s: z[:1], draw(1), falling(3)), SourceError, r"\(1, 3, 3, 5, 7\)"),
    ],
)
def test_a_bad_inversion_is_named(arguments, error, says):
    with pytest.raises(error, match=says):
        invert(*arguments)


def test_a_bad_trajectory_is_named():
    with pytest.raises(SettingsError, match="2 latents and 3 noise levels"):
        TrajectoryPath((draw(1), draw(2)), (1.0, 0.5, 0.0))
    with pytest.raises(ScheduleError, match="0.0 is followed by 1.0"):
        TrajectoryPath((draw(1), draw(2)), (0.0, 1.0))
