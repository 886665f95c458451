"""A sense of place for a classifier that you have already: wrappers around any torch module.

`PriorProduct` leaves the classifier as it is and multiplies its probabilities with those of a location prior.
`LateFusion` puts an embedding of the place beside its features and learns a new head. Both take a place that is missing
(NaN), and both give logits. The chapter *Adding location to your classifier* compares them. (`tslab.models` holds the
models of the benchmark, which are trained from image features and not around a network of yours.)
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_count, check_number
from tslab.coords import has_location
from tslab.encoders import LocationEncoder
from tslab.models import LocationClassifier


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
