"""The presence-only loss against a slow float64 loop; background points where they claim to lie; CSP by its limits."""

import math

import pytest
import torch

from tslab.losses import (
    BACKGROUNDS,
    background_points,
    csp_loss,
    presence_only_loss,
    presence_only_loss_of_pass,
)


def slow_loss(logits: torch.Tensor, target: list[int], background: torch.Tensor, w: float, eps: float) -> float:
    """The formula of the docstring, one probability at a time."""

    def negative_log(p: float) -> float:
        return -math.log(p + eps)

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    (b, k), total = logits.shape, 0.0
    for i in range(b):
        for c in range(k):
            p = sigmoid(float(logits[i, c]))
            total += k * negative_log(p) if c == target[i] else negative_log(1 - p)
    loss = total / (b * k)
    negatives = [negative_log(1 - sigmoid(float(z))) for z in background.flatten()]
    return loss + w * sum(negatives) / len(negatives)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_loss_is_the_formula(eps: float, weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn((9, 5), generator=generator, dtype=torch.float64)
    background = 4 * torch.randn((6, 5), generator=generator, dtype=torch.float64)
    target = torch.randint(5, (9,), generator=generator)
    got = presence_only_loss(logits, target, background, background_weight=weight, eps=eps)
    assert float(got) == pytest.approx(slow_loss(logits, target.tolist(), background, weight, eps), rel=1e-12)


def test_gradient_is_the_derivative() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((4, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    background = torch.randn((4, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(lambda a, b: presence_only_loss(a, target, b), (logits, background))


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_closed_form_gradient_is_that_of_the_formula(weight: float) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = (5 * torch.randn((9, 6), generator=generator, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 5, 2, 2])

    def fused(z: torch.Tensor) -> torch.Tensor:
        return presence_only_loss_of_pass(z, target, background_weight=weight)

    plain = presence_only_loss(logits[:4], target, logits[4:], background_weight=weight)
    torch.testing.assert_close(fused(logits), plain, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(fused, (logits,))
    expected = torch.autograd.grad(plain, logits)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * fused(logits), logits)[0], 3 * expected, rtol=1e-12, atol=1e-15)


def test_hopeless_logits_still_have_a_gradient_in_log_space_but_not_with_eps() -> None:
    """A true class at logit -200 in float32: probability 0."""
    gradients = {}
    for eps in (0.0, 1e-5):
        logits = torch.tensor([[-200.0, 0.0]], requires_grad=True)
        loss = presence_only_loss(logits, torch.tensor([0]), torch.zeros((1, 2)), eps=eps)
        assert torch.isfinite(loss)
        loss.backward()
        assert logits.grad is not None
        gradients[eps] = float(logits.grad[0, 0])
    assert gradients[0.0] == pytest.approx(-1.0)
    assert gradients[1e-5] == 0.0


def test_shares_of_a_batch_add_up_to_the_batch() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn((7, 4), generator=generator, dtype=torch.float64)
    background = torch.randn((7, 4), generator=generator, dtype=torch.float64)
    target = torch.randint(4, (7,), generator=generator)
    whole = presence_only_loss(logits, target, background)
    parts = [presence_only_loss(logits[r::2], target[r::2], background[r::2], rows=7 / 2) for r in range(2)]
    assert float(sum(parts) / 2) == pytest.approx(float(whole), rel=1e-12)  # type: ignore[arg-type]


def test_background_points_lie_where_they_claim() -> None:
    points = {k: background_points(40_000, k, generator=torch.Generator().manual_seed(3)) for k in BACKGROUNDS}
    beyond_60 = {k: float((p[:, 1].abs() > 60).float().mean()) for k, p in points.items()}
    assert beyond_60["sphere"] == pytest.approx(1 - math.sin(math.pi / 3), abs=0.01)  # 13 % of the surface
    assert beyond_60["uniform_lonlat"] == pytest.approx(1 / 3, abs=0.01)
    north_east = points["north_east"]
    assert bool((north_east >= 0).all())
    assert north_east.mean(0).tolist() == pytest.approx([90, 45], abs=1)
    with pytest.raises(ValueError, match="sphere, uniform_lonlat, north_east"):
        background_points(3, "spherical")


def test_csp_loss_of_indistinguishable_embeddings_is_the_log_of_the_number_of_candidates() -> None:
    x = torch.ones((8, 5))
    assert float(csp_loss(x, x)) == pytest.approx(math.log(8), abs=1e-5)
    with_all = csp_loss(x, x, negative=torch.ones((8, 3, 5)), second_view=x, weights=(2.0, 0.5))
    assert float(with_all) == pytest.approx(math.log(8) + 2 * math.log(4) + 0.5 * math.log(8), abs=1e-5)


def test_csp_loss_vanishes_for_perfect_pairs_and_ignores_lengths() -> None:
    x = torch.eye(6)
    assert float(csp_loss(x, x, temperatures=(100.0, 1.0, 1.0))) < 1e-6
    y = torch.randn((6, 6), generator=torch.Generator().manual_seed(4))
    z = torch.randn((6, 6), generator=torch.Generator().manual_seed(5))
    assert float(csp_loss(3 * y, z)) == pytest.approx(float(csp_loss(y, 0.1 * z)), rel=1e-5)
    both_ways = csp_loss(y, z, symmetric=True)
    assert float(both_ways) == pytest.approx(float(csp_loss(y, z) + csp_loss(z, y)) / 2, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_loss_can_be_differentiated_twice(weight: float) -> None:
    """Needed for gradient penalties and influence functions: the second derivative is that of the formula."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((7, 3), generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, 1, 1])

    def of_pass(z: torch.Tensor) -> torch.Tensor:
        return presence_only_loss_of_pass(z, target, background_weight=weight)

    def plain(z: torch.Tensor) -> torch.Tensor:
        return presence_only_loss(z[:4], target, z[4:], background_weight=weight)

    assert torch.autograd.gradgradcheck(of_pass, (logits,))
    penalties = []
    for loss in (of_pass, plain):
        (gradient,) = torch.autograd.grad(loss(logits), logits, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), logits)[0])
    torch.testing.assert_close(penalties[0], penalties[1])


def test_a_batch_of_background_alone_has_a_loss() -> None:
    logits, none = torch.zeros((3, 2)), torch.zeros(0, dtype=torch.long)
    assert float(presence_only_loss_of_pass(logits, none)) == pytest.approx(math.log(2))
    assert float(presence_only_loss(logits[:0], none, logits)) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="n must"):
        background_points(-1)


def test_embeddings_of_other_rows_are_refused() -> None:
    """Cross entropy would take the third image for one more negative of two places, and give a number."""
    with pytest.raises(ValueError, match=r"image must be .* \(2, 3\), got \(3, 3\)"):
        csp_loss(torch.randn(2, 3), torch.randn(3, 3))
    with pytest.raises(ValueError, match="second_view"):
        csp_loss(torch.randn(2, 3), torch.randn(2, 3), second_view=torch.randn(1, 3))


def test_logits_of_other_classes_are_refused() -> None:
    logits, target = torch.randn(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="background_logits"):
        presence_only_loss(logits, target, torch.randn(5, 4))
    with pytest.raises(ValueError, match="target"):
        presence_only_loss(logits, target[:1], torch.randn(5, 3))
    with pytest.raises(ValueError, match="target"):
        presence_only_loss_of_pass(logits, torch.tensor([0, 1, 2]))
