"""Encoders built for the sphere: xyz, NeRF on the unit vector, the Sphere2Vec family, and the sphere's own waves.

The five Sphere2Vec encoders replace latitude and longitude by scaled copies of themselves in the formula of
the unit vector. They share one notation: for scale s_f, phi_f = phi / s_f and lambda_f = lambda / s_f in
radians, with scales in geometric progression from ``min_radius`` to ``max_radius`` (at most 1, where the
angle is unscaled). phi is latitude, lambda longitude; an angle without an index is unscaled. Spherical harmonics are
what SIREN networks are put on (key ``siren_sh``).
"""

import contextlib
import math
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


MAX_DEGREE = 100


class SphericalHarmonics(PositionEncoder):
    """Real spherical harmonics Y_l^m of degree l < L, orthonormal on the unit sphere.

    Y_l^m(lambda, phi) = sqrt(2) P_l^|m|(sin phi) sin(|m| lambda) for m < 0, P_l^0(sin phi) for m = 0 and
    sqrt(2) P_l^m(sin phi) cos(m lambda) for m > 0, with P_l^m the associated Legendre functions without the
    Condon-Shortley phase, times sqrt((2 l + 1) / (4 pi) (l - m)! / (l + m)!). (The fully normalised functions of
    geodesy already hold the sqrt(2).) Order: l, then m from -l to l. L^2 features.

    As functions of the angle theta = 90 - phi from the North Pole, the P are short Fourier series with constant
    coefficients, of the same parity as their degree:

        P_l^m(cos theta) = sum over k = l, l - 2, ... >= 0 of c_klm cos(k theta), m even, or c_klm sin(k theta), m odd.

    So all features are waves of theta times a constant matrix (`fourier_tables`), times waves of lambda. No
    division, no special case: values and gradients are finite at the poles. Largest error in float32, near the poles
    included: 3e-7 at degree 10, 4e-7 at 20, 6e-7 at 40 and 1e-6 at 100, where Y itself grows to 4; root mean square
    4e-8 at all of them. In float64 the largest are 1e-14, 4e-14, 2e-13 and 1e-12.

    The matrix product keeps that precision under autocast. Reduced precision that you ask of all float32 products
    (``torch.set_float32_matmul_precision``, off by default) holds for it, too.

    The released benchmark has no spherical harmonics in its code path as published (the import is commented out);
    order and normalisation are ours.

    Date line: continuous. Poles: single-valued, up to rounding. The kernel <PE(x), PE(y)> depends on the
    great-circle distance only.

    Args:
        degree: L, the number of degrees l = 0 ... L - 1; at most 100.

    Source: Russwurm et al., Geographic location encoding with spherical harmonics and sinusoidal
    representation networks, ICLR 2024. The coefficients of the series are computed here, from the recurrence of
    `legendre_functions`.
    """

    orders: Tensor
    even: Tensor
    odd: Tensor

    def __init__(self, degree: int = 10) -> None:
        super().__init__()
        self.degree = check_count("degree", degree, at_most=MAX_DEGREE)
        self.out_features = self.degree**2
        even, odd = fourier_tables(self.degree)
        self.register_constant("orders", torch.arange(self.degree, dtype=torch.float64, device="cpu"))
        self.register_constant("even", even)
        self.register_constant("odd", odd)

    def encode(self, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n {self.degree}*{self.degree}"]:
        lon, lat = lonlat.double().split(1, dim=-1)
        lon = lon + 360.0 * (lon == -180).to(lon.dtype)  # the date line has one name
        sine, cosine = sin_cos(lon / 360, self.orders, lonlat.dtype)  # of m lambda, (n, m)
        around = torch.cat([sine[:, 1:].flip(-1), cosine], dim=-1)  # m = 1 - L ... L - 1
        sine, cosine = sin_cos((90 - lat) / 360, self.orders, lonlat.dtype)  # of k theta, (n, k)
        degrees = range(self.degree)
        legendre: dict[int, Tensor] = {}  # (n, 2 l + 1) for each degree l
        with _full_precision(lonlat.device.type):
            for parity, table in enumerate((self.even, self.odd)[: self.degree]):
                waves = torch.cat([cosine[:, parity::2], sine[:, parity::2]], dim=-1)
                widths = [2 * l + 1 for l in degrees[parity::2]]  # noqa: E741
                products = (waves @ table.to(lonlat.dtype)).split(widths, dim=-1)
                legendre |= zip(degrees[parity::2], products, strict=True)
        middle = self.degree - 1  # the column of m = 0
        return torch.cat([legendre[l] * around[:, middle - l : middle + l + 1] for l in degrees], dim=-1)  # noqa: E741

    @property
    def rows_per_block(self) -> int:
        return max(256, super().rows_per_block)  # enough rows for a fast matrix product


def fourier_tables(degree: int) -> tuple[Float[Tensor, "k even"], Float[Tensor, "k odd"]]:
    """The coefficients c_klm of `SphericalHarmonics` for even and for odd degrees l, float64, on the CPU.

    A row for each cos(k theta) with k of that parity, then one for each sin(k theta); a column for each l and
    m = -l ... l.

    The factor sqrt(2) of m != 0 is in them. The waves below k = L are orthogonal over L evenly spaced angles, so sums
    over those angles are the coefficients, exactly.
    """
    k = torch.arange(degree, dtype=torch.float64, device="cpu")
    theta = (k + 0.5) * (math.pi / degree)
    phases = k[:, None] * theta
    weight = ((2 - (k == 0).double()) / degree)[:, None]
    functions = legendre_functions(degree, theta)
    tables = []
    for parity in (0, 1):
        columns = [(l, abs(m)) for l in range(parity, degree, 2) for m in range(-l, l + 1)]  # noqa: E741
        l, m = torch.tensor(columns, dtype=torch.int64, device="cpu").reshape(-1, 2).T  # noqa: E741
        values = functions[l, m].T
        cosines, sines = ((weight * phases.cos())[parity::2] @ values, (weight * phases.sin())[parity::2] @ values)
        tables.append(torch.cat([cosines * (m % 2 == 0), sines * (m % 2 == 1)]))
    return tables[0], tables[1]


def legendre_functions(degree: int, theta: Float[Tensor, " n"]) -> Float[Tensor, "l m n"]:
    """P_l^0(cos theta) and sqrt(2) P_l^m(cos theta), m = 1 ... l, of the degrees l < ``degree``; zero for m > l.

    By the recurrence that is stable for growing l (Holmes and Featherstone, Journal of Geodesy 76, 2002):

        P_m^m = sqrt((2 m + 1) / (2 m)) sin(theta) P_{m-1}^{m-1},
        P_l^m = a_l^m (cos(theta) P_{l-1}^m - b_l^m P_{l-2}^m),
        a_l^m = sqrt((4 l^2 - 1) / (l^2 - m^2)),   b_l^m = sqrt(((l - 1)^2 - m^2) / (4 (l - 1)^2 - 1)).
    """
    functions = theta.new_zeros((degree, degree, len(theta)))
    functions[0, 0] = math.sqrt(1 / (4 * math.pi))
    for l in range(1, degree):  # noqa: E741
        growth = math.sqrt((2 * l + 1) / (2 * l)) * (math.sqrt(2) if l == 1 else 1)
        functions[l, l] = growth * theta.sin() * functions[l - 1, l - 1]
        m = torch.arange(l, dtype=theta.dtype, device=theta.device)[:, None]
        a = torch.sqrt((4 * l**2 - 1) / (l**2 - m**2))
        b = torch.sqrt(((l - 1) ** 2 - m**2).clamp(min=0) / (4 * (l - 1) ** 2 - 1)) if l > 1 else 0 * m
        functions[l, :l] = a * (theta.cos() * functions[l - 1, :l] - b * functions[l - 2, :l])
    return functions


def _full_precision(device: str) -> contextlib.AbstractContextManager[object]:
    """Autocast off, where there is such a thing: it would round the products of waves to bfloat16."""
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
