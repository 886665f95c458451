"""The models around a location encoder: the benchmark's two, a class prior and a regressor that can also see an image,
and wrappers that give a classifier of yours a sense of place.

`LocationClassifier` says how likely each class is at a place. `Regressor` predicts a number from a place, from image
features or from both. A location that is missing is handled here and nowhere else: a prior has nothing to say about it
(its row is NaN, and whoever combines it with an image falls back to the image), a regressor uses a learned vector in
its place. `PriorProduct` multiplies the probabilities of any torch classifier with those of a prior, and `LateFusion`
puts an embedding of the place beside its features and learns a new head; the chapter *Adding location to your
classifier* compares them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_choice, check_count, check_number
from tslab.coords import has_location
from tslab.encoders import LocationEncoder
from tslab.encoders.networks import Dropout, xavier_linear

FUSIONS = ("concat", "hadamard", "none")
IMAGE_KINDS = ("feats", "scalar")
LOCATION_ACTIVATIONS = ("identity", "sigmoid")


class LocationClassifier(nn.Module):
    """P(class c is here | place x) = sigmoid(w_c . Enc(x)), independently for each class.

    Called with places (n, 2) in degrees, it returns logits (n, ``num_classes``); rows without a location are NaN.

    Args:
        encoder: the location encoder.
        num_classes: K.
        generator: random source of the class weights.

    Source: Mac Aodha et al., Presence-only geographical priors for fine-grained image classification, ICCV 2019.
    """

    def __init__(self, encoder: LocationEncoder, num_classes: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        num_classes = check_count("num_classes", num_classes)
        self.encoder = encoder
        self.classes: nn.Linear = nn.utils.skip_init(nn.Linear, encoder.out_features, num_classes, bias=False)
        nn.init.kaiming_uniform_(self.classes.weight, a=5**0.5, generator=generator)

    @property
    def num_classes(self) -> int:
        return self.classes.out_features

    def forward(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        return self.classes(self.encoder(lonlat))

    def log_prior(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        """ln P(class is here | place), finite however small the probability."""
        return F.logsigmoid(self(lonlat).float())

    def predict_proba(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        """P(class is here | place). The rows do not add up to 1: several classes can live at one place."""
        return torch.sigmoid(self(lonlat).float())


class Regressor(nn.Module):
    """A number predicted from a place, from image features, or from both.

    Image features pass a small branch, the place passes its encoder; with ``fusion="concat"`` the two
    vectors stand side by side, with "hadamard" they are multiplied (the location as a gate on the image),
    with "none" exactly one of them is there. A head follows. Inputs and the label are standardised inside,
    with statistics of the training rows (`fit_scales`): the model takes and returns the data's own units.

    Called with places (n, 2) and image features (n, d) (None for the part that the model does not have), it
    returns (n,) predictions. A missing place is replaced by a learned embedding.

    Args:
        encoder: location encoder, or None for a model of the image alone.
        image_features: d, or 0 for a model of the place alone.
        fusion: "concat", "hadamard" or "none".
        image_kind: "feats" (a feature vector) or "scalar" (one positive number such as a night light, see
            `ScalarFeatures`).
        embedding_dim: width of the image branch; the encoder's own width when there is one.
        head: widths of the hidden layers of the head.
        location_activation: "identity", or "sigmoid" as in the released code.
        dropout: probability in the head and in the image branch.
        generator: random source of the weights.
    """

    label_mean: Tensor
    label_scale: Tensor
    image_mean: Tensor
    image_scale: Tensor

    def __init__(
        self,
        encoder: LocationEncoder | None,
        image_features: int = 0,
        *,
        fusion: str = "concat",
        image_kind: str = "feats",
        embedding_dim: int = 256,
        head: Sequence[int] = (256, 256),
        location_activation: str = "identity",
        dropout: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        image_features = check_count("image_features", image_features, at_least=0)
        embedding_dim = check_count("embedding_dim", embedding_dim)
        head = tuple(check_count("head", width, hint="it is a tuple of widths") for width in head)
        check_choice("fusion", fusion, FUSIONS)
        check_choice("image_kind", image_kind, IMAGE_KINDS)
        check_choice("location_activation", location_activation, LOCATION_ACTIVATIONS)
        if encoder is None and image_features == 0:
            raise ValueError("a regressor needs a location encoder, image features, or both")
        if (fusion == "none") == (encoder is not None and image_features > 0):
            wanted = '"none" takes one input, any other needs an encoder and image features'
            raise ValueError(f"{wanted}; got fusion={fusion!r}")
        self.fusion = fusion
        self.encoder = encoder
        self.location_activation: nn.Module = nn.Sigmoid() if location_activation == "sigmoid" else nn.Identity()
        width = encoder.out_features if encoder is not None else embedding_dim
        self.missing = nn.Parameter(torch.zeros(width)) if encoder is not None else None
        self.scalar = ScalarFeatures() if image_kind == "scalar" and image_features else None
        branch_in = self.scalar.out_features if self.scalar is not None else image_features
        how: dict[str, Any] = {"dropout": dropout, "generator": generator}
        self.image = mlp((branch_in, max(width, 2), width), **how) if image_features else None
        self.register_buffer("image_mean", torch.zeros(image_features))
        self.register_buffer("image_scale", torch.ones(image_features))
        self.register_buffer("label_mean", torch.zeros(()))
        self.register_buffer("label_scale", torch.ones(()))
        fused = 2 * width if fusion == "concat" else width
        self.head = mlp((fused, *head, 1), **how)

    @torch.no_grad()
    def fit_scales(
        self, label: Float[Tensor, " n"], image: Float[Tensor, "n d"] | None, *, standardise_label: bool = True
    ) -> None:
        """Take mean and scale of the label, and of the image features, from the training rows."""
        if standardise_label:
            self.label_mean.copy_(label.double().mean())
            self.label_scale.copy_(label.double().std(correction=0).clamp_min(1e-12))
        if image is None or self.image is None:
            return
        if self.scalar is not None:
            self.scalar.fit(image[:, 0])
        else:
            self.image_mean.copy_(image.double().mean(0))
            scale = image.double().std(0, correction=0)
            self.image_scale.copy_(torch.where(scale > 1e-12, scale, torch.ones_like(scale)))

    def forward(self, lonlat: Float[Tensor, "n 2"], image: Float[Tensor, "n d"] | None = None) -> Float[Tensor, " n"]:
        return self.standardised(lonlat, image).float() * self.label_scale + self.label_mean

    def standardised(
        self, lonlat: Float[Tensor, "n 2"], image: Float[Tensor, "n d"] | None = None
    ) -> Float[Tensor, " n"]:
        """The prediction in units of the label's standard deviation, which the loss compares."""
        parts = []
        if self.encoder is not None and self.missing is not None:
            present = has_location(lonlat)[:, None]
            embedding = self.location_activation(self.encoder(lonlat.where(present, 0.0)))
            parts.append(torch.where(present, embedding, self.missing.to(embedding.dtype)))
        if self.image is not None:
            parts.insert(0, self._embed_image(image))  # computed second, so that dropout draws as it always did
        fused = parts[0] * parts[1] if self.fusion == "hadamard" else torch.cat(parts, dim=-1)
        return self.head(fused).squeeze(-1)

    def _embed_image(self, image: Float[Tensor, "n d"] | None) -> Float[Tensor, "n e"]:
        assert self.image is not None
        if image is None:
            raise ValueError(f"this model needs image features of width {len(self.image_mean)}; pass them as image=")
        if self.scalar is not None:
            return self.image(self.scalar(image[:, 0]))
        return self.image((image - self.image_mean) / self.image_scale)


class ScalarFeatures(nn.Module):
    """One non-negative number v, such as a mean night light, as features a network can use.

    u = ln(1 + max(v, 0)); features are u standardised and exp(-(u - a_j)^2 / (2 s^2)) for anchors a_j at
    quantiles of the training values, s their median spacing. (In the released code all columns of this layer
    are the same and zero: see the reproduction chapter.)
    """

    anchors: Tensor
    width: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, num_anchors: int = 32) -> None:
        super().__init__()
        num_anchors = check_count("num_anchors", num_anchors, at_least=2)
        self.out_features = num_anchors + 1
        self.register_buffer("anchors", torch.linspace(0, 5, num_anchors))
        self.register_buffer("width", torch.tensor(5 / num_anchors))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, values: Float[Tensor, " n"]) -> None:
        """Take anchors, width, mean and scale from the training values."""
        u = values.float().clamp_min(0).log1p()
        low, high = float(u.min()), max(float(u.max()), float(u.min()) + 1e-3)
        quantiles = torch.quantile(u.unique(), torch.linspace(0, 1, len(self.anchors), device=u.device))
        even = torch.linspace(low, high, len(self.anchors), device=u.device)
        self.anchors.copy_((quantiles + even) / 2)  # dense where the data are, without leaving gaps
        self.width.copy_(self.anchors.diff().median().clamp_min(1e-3 * (high - low)))
        self.centre.copy_(u.mean())
        self.scale.copy_(u.std(correction=0).clamp_min(1e-6))

    def forward(self, values: Float[Tensor, " n"]) -> Float[Tensor, "n out_features"]:
        u = values.float().clamp_min(0).log1p()[:, None]
        bumps = torch.exp(-(((u - self.anchors) / self.width) ** 2) / 2)
        return torch.cat([(u - self.centre) / self.scale, bumps], dim=-1)


class Ensemble(nn.Module):
    """The mean prediction of several trained regressors, or the mean class probability of several priors."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member")
        self.members = nn.ModuleList(members)

    def forward(self, lonlat: Float[Tensor, "n 2"], image: Float[Tensor, "n d"] | None = None) -> Tensor:
        inputs = (lonlat,) if image is None else (lonlat, image)
        return torch.stack([member(*inputs) for member in self.members]).mean(0)

    def log_prior(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        """ln of the mean probability of the members (which are `LocationClassifier`)."""
        logs = torch.stack([member.log_prior(lonlat) for member in self.members])  # type: ignore[operator]
        return torch.logsumexp(logs, dim=0) - torch.log(torch.tensor(float(len(self.members)), device=logs.device))


def mlp(widths: tuple[int, ...], *, dropout: float = 0.0, generator: torch.Generator | None = None) -> nn.Sequential:
    """Linear layers of the given widths with ReLU and dropout between them, and none after the last."""
    check_number("dropout", dropout, at_least=0, below=1)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [xavier_linear(a, b, generator), nn.ReLU(), Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


class PriorProduct(nn.Module):
    """ln P(class | image) + ln P(class | place): a classifier and a location prior, each trained alone.

    Called with the classifier's input and places (n, 2), it returns logits (n, k): log scores whose softmax is the
    normalised product. A row without a place keeps the classifier's answer.

    Args:
        classifier: any module that returns logits (n, k).
        prior: a prior over the same classes, in the same order.
    """

    def __init__(self, classifier: nn.Module, prior: LocationClassifier) -> None:
        super().__init__()
        if not hasattr(prior, "log_prior"):
            raise TypeError(f"prior must be a LocationClassifier, got {type(prior).__name__}")
        self.classifier = classifier
        self.prior = prior

    def forward(self, image: Any, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        log_image = F.log_softmax(self.classifier(image), dim=-1)
        if log_image.shape[-1] != self.prior.num_classes:
            raise ValueError(f"the classifier has {log_image.shape[-1]} classes and the prior {self.prior.num_classes}")
        present = has_location(lonlat)[:, None]
        log_place = self.prior.log_prior(lonlat.where(present, 0.0))
        return log_image + log_place.where(present, 0.0)


class LateFusion(nn.Module):
    """Features of an image network and the embedding of the place, side by side, under a new head.

    Called with the backbone's input and places (n, 2), it returns logits (n, ``num_classes``). A missing place is
    replaced by a learned vector, and while training so are ``missing_rate`` of the others, so that the head learns what
    to do without.

    Args:
        backbone: any module that returns features (n, ``width``). Without trainable parameters it stays in evaluation
            mode (batch normalisation, dropout), whatever the mode of the rest.
        width: of its features.
        encoder: location encoder.
        num_classes: k.
        missing_rate: share of places hidden in training.
    """

    def __init__(
        self, backbone: nn.Module, width: int, encoder: LocationEncoder, num_classes: int, *, missing_rate: float = 0.1
    ) -> None:
        super().__init__()
        width, num_classes = check_count("width", width), check_count("num_classes", num_classes)
        for name, module in (("backbone", backbone), ("encoder", encoder)):
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name} must be a torch module, got {type(module).__name__}")
        check_number("missing_rate", missing_rate, at_least=0, below=1)
        self.backbone = backbone
        self.encoder = encoder
        self.missing = nn.Parameter(torch.zeros(encoder.out_features))
        self.missing_rate = missing_rate
        joined = width + encoder.out_features
        self.head = nn.Sequential(nn.Linear(joined, joined), nn.ReLU(), nn.Linear(joined, num_classes))
        self.train()

    def forward(self, image: Any, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n k"]:
        present = has_location(lonlat)
        if self.training:
            present = present & (torch.rand(len(lonlat), device=lonlat.device) >= self.missing_rate)
        place = self.encoder(lonlat.where(present[:, None], 0.0))
        place = torch.where(present[:, None], place, self.missing)
        return self.head(torch.cat([self.backbone(image), place], dim=-1))

    def train(self, mode: bool = True) -> "LateFusion":
        super().train(mode)
        if not any(p.requires_grad for p in self.backbone.parameters()):
            self.backbone.eval()
        return self
