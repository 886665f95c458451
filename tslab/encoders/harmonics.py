"""Real spherical harmonics: the waves of the sphere itself, which SIREN networks are put on (key
``siren_sh``)."""

import contextlib
import math

import torch
from jaxtyping import Float
from torch import Tensor

from tslab._checks import check_count
from tslab.encoders.base import PositionEncoder, sin_cos

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
