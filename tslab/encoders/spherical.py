"""Encoders built for the sphere: xyz, NeRF on the unit vector, and the Sphere2Vec family.

The five Sphere2Vec encoders replace latitude and longitude by scaled copies of themselves in the formula of
the unit vector. They share one notation: for scale s_f, phi_f = phi / s_f and lambda_f = lambda / s_f in
radians, with scales in geometric progression from ``min_radius`` to ``max_radius`` (at most 1, where the
angle is unscaled). phi is latitude, lambda longitude; an angle without an index is unscaled.
"""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_choice, check_count
from tslab.coords import unit_vectors
from tslab.encoders.base import MultiScaleEncoder, PositionEncoder, WaveEncoder, geometric_scales, interleave, sin_cos

TURNS_PER_DEGREE = 1 / 360


class Waves(NamedTuple):
    """Sine and cosine of an angle: (n, f) for its scaled copies, (n, 1) for the angle itself."""

    sin: Tensor
    cos: Tensor


class XYZ(PositionEncoder):
    """xyz: the place as a point on the unit sphere.

    PE(lambda, phi) = (cos phi cos lambda, cos phi sin lambda, sin phi).

    Date line: continuous. Poles: single-valued. The inner product of two encodings is the cosine of the
    great-circle angle between the places, whatever the direction; rotating the Earth rotates the encoding.
    What it lacks is scale: every feature is a wave once around the globe.

    Source: Mai et al., Sphere2Vec, ISPRS Journal of Photogrammetry and Remote Sensing 2023 (baseline "xyz").
    """

    out_features = 3

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        return unit_vectors(lonlat)


class NeRF(WaveEncoder):
    """NeRF: sines and cosines of the unit vector at F octaves.

    PE(x, y, z) = [sin(2^f pi x) ... ; cos(2^f pi x) ...], f = 0 ... F - 1, in the order sine or cosine, axis,
    f.

    Date line: continuous. Poles: single-valued. The finest wavelength is 2^(2 - F) Earth radii along an axis,
    but how
    fast a feature changes with place depends on the angle between the surface and the axis: features are not
    isotropic.

    The released code always uses F = 16, whatever frequency its file names carry; so does
    ``preset="locbench2024"``.

    Args:
        num_scales: F; `out_features` is 6 F.

    Source: Mildenhall et al., NeRF: Representing scenes as neural radiance fields for view synthesis, ECCV
    2020.
    """

    def __init__(self, num_scales: int = 16) -> None:
        num_scales = check_count("num_scales", num_scales, at_most=40, hint="they are octaves")
        super().__init__(2.0 ** torch.arange(num_scales, dtype=torch.float64, device="cpu") / 2)
        self.num_scales, self.out_features = num_scales, 6 * num_scales

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        xyz = unit_vectors(lonlat.double())
        sine, cosine = sin_cos(xyz[:, :, None], self.frequencies, lonlat.dtype)  # (n, axis, f)
        return torch.cat([sine.flatten(1), cosine.flatten(1)], dim=-1)


class Sphere2Vec(MultiScaleEncoder):
    """What the Sphere2Vec encoders share: waves of the scaled angles and of the angles themselves. A subclass says in
    `encode` which of them it multiplies, and how many features that makes for each scale.

    Args:
        num_scales: F, the number of scales.
        min_radius: the finest scale; 0.001 makes waves 1000 times shorter than the globe.
        max_radius: the coarsest scale; 1 is the unscaled angle.

    Source: Mai et al., Sphere2Vec: A general-purpose location representation learning over a spherical
    surface for large-scale geospatial predictions, ISPRS Journal of Photogrammetry and Remote Sensing 2023.
    """

    turns_per_unit: ClassVar[float] = TURNS_PER_DEGREE
    features_per_scale: ClassVar[int]

    def __init__(self, num_scales: int = 64, min_radius: float = 1e-3, max_radius: float = 1.0) -> None:
        super().__init__(num_scales, min_radius, max_radius)
        self.out_features = self.features_per_scale * num_scales

    def collapse_scales(self, scales: str) -> None:
        """Keep the geometric scales, or set every scale to ``max_radius`` as the released code does for M+
        and dfs."""
        self.scales = check_choice("scales", scales, ("geometric", "released"))
        if scales == "released":
            ones = geometric_scales(self.num_scales, self.max_radius, self.max_radius)
            self.register_constant("frequencies", self.frequencies_of(ones))

    def scaled(self, lonlat: Float[Tensor, "n 2"]) -> tuple[Waves, Waves]:
        """Waves of lambda_f and of phi_f, each (n, f)."""
        sin, cos = sin_cos(lonlat[:, :, None], self.frequencies, lonlat.dtype)  # (n, coordinate, f)
        return Waves(sin[:, 0], cos[:, 0]), Waves(sin[:, 1], cos[:, 1])

    def whole(self, lonlat: Float[Tensor, "n 2"]) -> tuple[Waves, Waves]:
        """Waves of lambda and of phi, each (n, 1)."""
        sin, cos = sin_cos(lonlat, self.frequencies.new_full((1,), TURNS_PER_DEGREE), lonlat.dtype)
        return Waves(sin[:, :1], cos[:, :1]), Waves(sin[:, 1:], cos[:, 1:])


class SphereC(Sphere2Vec):
    """Sphere2Vec-sphereC: the unit vector of the scaled angles.

    PE = for each scale f: [sin phi_f, cos phi_f cos lambda_f, cos phi_f sin lambda_f].

    Date line: continuous only at scales where 1 / s_f is a whole number, so a seam remains in general. Poles:
    single-valued only at scales where cos phi_f vanishes there, that is where 1 / s_f is an odd whole number.
    """

    features_per_scale = 3

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        lon_f, lat_f = self.scaled(lonlat)
        return interleave(lat_f.sin, lat_f.cos * lon_f.cos, lat_f.cos * lon_f.sin)


class SphereCPlus(Sphere2Vec):
    """Sphere2Vec-sphereC+: sphereC together with the waves of each coordinate alone (Space2Vec-grid on
    angles).

    PE = for each scale f: [sin phi_f, cos phi_f, sin lambda_f, cos lambda_f, cos phi_f cos lambda_f,
    cos phi_f sin lambda_f].

    Date line: as `SphereC`. Poles: the two waves of longitude alone keep its value at a pole, at every scale.
    """

    features_per_scale = 6

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        lon_f, lat_f = self.scaled(lonlat)
        return interleave(lat_f.sin, lat_f.cos, lon_f.sin, lon_f.cos, lat_f.cos * lon_f.cos, lat_f.cos * lon_f.sin)


class SphereM(Sphere2Vec):
    """Sphere2Vec-sphereM: one angle scaled at a time, the other one left whole.

    PE = for each scale f: [sin phi_f, cos phi_f cos lambda, cos phi cos lambda_f, cos phi_f sin lambda,
    cos phi sin lambda_f].

    Date line: the features with lambda_f break as in `SphereC`, those with lambda are continuous. Poles: the
    features with cos phi vanish there, those with cos phi_f keep longitude unless 1 / s_f is odd.
    """

    features_per_scale = 5

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        (lon_f, lat_f), (lon, lat) = self.scaled(lonlat), self.whole(lonlat)
        mixed = lat_f.cos * lon.cos, lat.cos * lon_f.cos, lat_f.cos * lon.sin, lat.cos * lon_f.sin
        return interleave(lat_f.sin, *mixed)


class SphereMPlus(Sphere2Vec):
    """Sphere2Vec-sphereM+: sphereM together with the waves of each coordinate alone (Space2Vec-grid on
    angles).

    PE = for each scale f: [sin phi_f, cos phi_f, sin lambda_f, cos lambda_f, cos phi_f cos lambda, cos phi
    cos lambda_f, cos phi_f sin lambda, cos phi sin lambda_f].

    The golden outputs of the released code show all F frequencies equal to 1, as in `DFS`: whatever F, the
    encoding has six different columns, because at scale 1 two of its eight features equal others.
    ``preset="locbench2024"`` (here ``scales="released"``) restores that; ``scales="geometric"`` is the
    paper's definition.

    Date line: as `SphereM` (continuous as released). Poles: the two waves of longitude alone keep its value
    at a pole.

    Args:
        num_scales: F, the number of scales.
        min_radius: the finest scale.
        max_radius: the coarsest scale.
        scales: "geometric" or "released".
    """

    features_per_scale = 8

    def __init__(
        self, num_scales: int = 64, min_radius: float = 1e-3, max_radius: float = 1.0, scales: str = "geometric"
    ) -> None:
        super().__init__(num_scales, min_radius, max_radius)
        self.collapse_scales(scales)

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        (lon_f, lat_f), (lon, lat) = self.scaled(lonlat), self.whole(lonlat)
        mixed = lat_f.cos * lon.cos, lat.cos * lon_f.cos, lat_f.cos * lon.sin, lat.cos * lon_f.sin
        return interleave(lat_f.sin, lat_f.cos, lon_f.sin, lon_f.cos, *mixed)


class DFS(Sphere2Vec):
    """Sphere2Vec-dfs: all products of a wave of longitude and a wave of latitude, the double Fourier sphere.

    PE = [{sin lambda_f, cos lambda_f} x {sin phi_g, cos phi_g} for all f, g; then for each f: sin phi_f, cos
    phi_f, sin lambda_f, cos lambda_f]. The products are the flattened (2 F, 2 F) outer product, longitude
    along the rows, sines before cosines: 4 F^2 + 4 F features.

    The released code computes its scales as 1 / r_max^(f / (F - 1)) with r_max = 1, so that all F frequencies
    are 1 and the encoding has rank 8. ``preset="locbench2024"`` (here ``scales="released"``) restores that;
    ``scales="geometric"`` is the paper's definition.

    Date line: as `SphereC` (continuous as released, where every scale is 1). Poles: longitude keeps its
    value.

    Args:
        num_scales: F.
        min_radius: the finest scale.
        max_radius: the coarsest scale.
        scales: "geometric" or "released".
    """

    features_per_scale = 0  # its features are pairs of scales

    def __init__(
        self, num_scales: int = 8, min_radius: float = 1e-2, max_radius: float = 1.0, scales: str = "geometric"
    ) -> None:
        super().__init__(num_scales, min_radius, max_radius)
        self.collapse_scales(scales)
        self.out_features = 4 * num_scales**2 + 4 * num_scales

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n out_features"]:
        lon, lat = self.scaled(lonlat)
        products = torch.cat(lon, dim=-1)[:, :, None] * torch.cat(lat, dim=-1)[:, None, :]  # (n, 2 f, 2 f)
        return torch.cat([products.flatten(1), interleave(lat.sin, lat.cos, lon.sin, lon.cos)], dim=-1)
