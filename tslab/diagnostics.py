"""What an encoder does to the sphere, measured: the seam at the date line, the poles, its kernel and its
resolution.

Every number here comes from calling the encoder, so it holds for position encoders, for location encoders
with a network behind them and for encoders of your own. Lengths in the space of features mean little by
themselves; they are divided by the `typical_distance` between the encodings of two random places, so that 0
is "the same" and 1 is "as different as two places drawn at random". Everything is computed in float64.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tslab._checks import check_choice, check_count, check_number
from tslab.coords import EARTH_RADIUS_KM, sample_sphere
from tslab.encoders.base import PositionEncoder
from tslab.encoders.registry import ENCODERS, encoder_info, position_encoder

Encoder = Callable[[Float[Tensor, "n 2"]], Float[Tensor, "n d"]]
Direction = Literal["parallel", "meridian"]

EPSILON_DEG = 1e-7
"""How far from the date line the two sides of the seam are taken: 1e-7 degrees, about one centimetre."""


def typical_distance(encoder: Encoder, *, n: int = 2048, seed: int = 0) -> float:
    """Root mean square distance between the encodings of two places drawn uniformly from the sphere."""
    features = encodings(encoder, _random_places(n, seed))
    return math.sqrt(2 * float(features.var(dim=0, unbiased=False).sum()))


def seam_gap(encoder: Encoder, *, n: int = 2048) -> float:
    """How far the encoding jumps at the date line: 0 is continuous, 1 is as far as two random places.

    Root mean square over latitudes of |Enc(180 - e, lat) - Enc(-180 + e, lat)|, e = `EPSILON_DEG`, divided by
    `typical_distance`. The latitudes are 181 values from -89.5 to 89.5 weighted by the length of their parallel.
    """
    lat = torch.linspace(-89.5, 89.5, 181).double()
    lon = torch.full_like(lat, 180 - EPSILON_DEG)
    east, west = (encodings(encoder, torch.stack([side * lon, lat], dim=-1)) for side in (1, -1))
    weight = torch.cos(torch.deg2rad(lat))
    squared = (weight * (east - west).square().sum(-1)).sum() / weight.sum()
    return math.sqrt(float(squared)) / _scale(encoder, n)


def pole_spread(encoder: Encoder, *, n_meridians: int = 360, n: int = 2048) -> float:
    """How much the encoding of a pole depends on its longitude, which means nothing there: 0 is
    single-valued.

    Root mean square distance between the encodings of one pole at two random longitudes, the mean of both
    poles, divided by `typical_distance`.
    """
    check_count("n_meridians", n_meridians, at_least=2)
    lon = torch.arange(n_meridians, dtype=torch.float64) * (360 / n_meridians) - 180
    spreads = []
    for pole in (-90.0, 90.0):
        features = encodings(encoder, _places(lon, pole))
        spreads.append(2 * float(features.var(dim=0, unbiased=False).sum()))
    return math.sqrt(sum(spreads) / 2) / _scale(encoder, n)


def kernel_profile(
    encoder: Encoder,
    distances_km: Float[Tensor, " m"],
    *,
    lon_deg: float = 0.0,
    lat_deg: float = 0.0,
    direction: Direction = "parallel",
) -> Float[Tensor, " m"]:
    """Similarity of a place to the places at the given great-circle distances, along its parallel or its
    meridian.

    Similarity is the cosine <Enc(x), Enc(y)> / (|Enc(x)| |Enc(y)|). Along the parallel the longitude moves
    east, by the angle whose great-circle distance is asked for; NaN beyond the far side of the parallel.
    Along the meridian the path goes towards the farther pole and on over it.
    """
    places = places_at_distance(distances_km, lon_deg=lon_deg, lat_deg=lat_deg, direction=direction)
    origin = torch.tensor([[lon_deg, lat_deg]], dtype=torch.float64)
    return torch.cosine_similarity(encodings(encoder, origin), encodings(encoder, places), dim=-1)


def places_at_distance(
    distances_km: Float[Tensor, " m"], *, lon_deg: float = 0.0, lat_deg: float = 0.0, direction: Direction = "parallel"
) -> Float[Tensor, "m 2"]:
    """Places at given great-circle distances from one place along its parallel (eastwards) or meridian,
    (m, 2) float64 degrees.
    """
    check_choice("direction", direction, ("parallel", "meridian"))
    check_number("lon_deg", lon_deg, at_least=-360, at_most=360)
    check_number("lat_deg", lat_deg, at_least=-90, at_most=90)
    angle = torch.as_tensor(distances_km).double() / EARTH_RADIUS_KM
    if direction == "parallel":
        cos_lat = math.cos(math.radians(lat_deg))
        turn = torch.rad2deg(2 * torch.asin(torch.sin(angle / 2) / cos_lat))  # NaN beyond the far side
        return _places(lon_deg + turn, lat_deg + 0 * turn)
    sign = -1.0 if lat_deg > 0 else 1.0
    lat = lat_deg + sign * torch.rad2deg(angle)
    over = lat.abs() > 90
    return _places(lon_deg + 180 * over.double(), torch.where(over, sign * 180 - lat, lat))


def anisotropy(encoder: Encoder, *, lat_deg: float = 60.0, max_km: float = 3000.0, steps: int = 300) -> float:
    """How much similarity depends on direction: mean |kernel along the parallel - kernel along the meridian|.

    Both profiles start at the same place at latitude ``lat_deg`` and cover the same great-circle distances
    up to ``max_km``; the mean is over four longitudes. 0 for a kernel that knows only distance on the
    sphere.
    """
    check_number("max_km", max_km, above=0, at_most=math.pi * EARTH_RADIUS_KM)
    check_count("steps", steps, at_least=2)
    distances = torch.linspace(0, max_km, steps, dtype=torch.float64)
    gaps = []
    for lon in (-135.0, -45.0, 45.0, 135.0):
        east = kernel_profile(encoder, distances, lon_deg=lon, lat_deg=lat_deg, direction="parallel")
        poleward = kernel_profile(encoder, distances, lon_deg=lon, lat_deg=lat_deg, direction="meridian")
        gaps.append((east - poleward).abs().nanmean())
    return float(torch.stack(gaps).mean())


def spectrum(encoder: Encoder, *, n: int = 2048, seed: int = 0) -> Float[Tensor, " d"]:
    """Singular values of the encodings of ``n`` random places (not centred), largest first."""
    return torch.linalg.svdvals(encodings(encoder, _random_places(n, seed)))


def numerical_rank(encoder: Encoder, *, n: int = 2048, seed: int = 0, tolerance: float = 1e-6) -> int:
    """Number of singular values above ``tolerance`` times the largest: how many different features there
    are.
    """
    check_number("tolerance", tolerance, at_least=0, below=1)
    values = spectrum(encoder, n=n, seed=seed)
    return int((values > tolerance * values[0]).sum())


def effective_rank(encoder: Encoder, *, n: int = 2048, seed: int = 0) -> float:
    """exp(entropy) of the normalised squared singular values: how many features carry the variation.

    Between 1 and the number of features. Source: Roy and Vetterli, The effective rank, EUSIPCO 2007 (there
    with the singular values).
    """
    power = spectrum(encoder, n=n, seed=seed).square()
    share = power / power.sum()
    return float(torch.exp(torch.special.entr(share).sum()))


def resolution_km(encoder: Encoder, *, n: int = 256, seed: int = 0) -> float:
    """The smallest distance that the encoding resolves, in kilometres.

    The shortest distance at which two places are, as a root mean square over ``n`` random places and
    directions, half as far apart in feature space as two random places are. Searched on 160 distances from
    1 m to half the Earth's circumference, with interpolation between the last two. Infinite if no distance
    gets there.
    """
    distances = torch.logspace(-3, math.log10(math.pi * EARTH_RADIUS_KM), 160, dtype=torch.float64)
    origins = _random_places(n, seed)
    bearing = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) * 2 * math.pi
    start = encodings(encoder, origins)
    half = 0.5 * _scale(encoder, 2048)
    before_km, before = 0.0, 0.0
    for distance_km in distances.tolist():
        moved = encodings(encoder, _destination(origins, bearing, distance_km / EARTH_RADIUS_KM))
        apart = math.sqrt(float((moved - start).square().sum(-1).mean()))
        if apart >= half:
            return before_km + (distance_km - before_km) * (half - before) / (apart - before)
        before_km, before = distance_km, apart
    return math.inf


def diagnose(encoder: Encoder) -> dict[str, Any]:
    """All diagnostics of one encoder: seam_gap, pole_spread, anisotropy, rank, effective_rank,
    resolution_km and the verdicts.

    ``continuous`` means a seam gap below 1e-3, ``single_valued_poles`` a pole spread below 1e-3,
    ``isotropic`` an anisotropy below 1e-3; ``spherical`` means all three.
    """
    row = {
        "seam_gap": seam_gap(encoder),
        "pole_spread": pole_spread(encoder),
        "anisotropy": anisotropy(encoder),
        "rank": numerical_rank(encoder),
        "effective_rank": effective_rank(encoder),
        "resolution_km": resolution_km(encoder),
    }
    names = {"continuous": "seam_gap", "single_valued_poles": "pole_spread", "isotropic": "anisotropy"}
    verdicts = {verdict: row[measure] < 1e-3 for verdict, measure in names.items()}
    return row | verdicts | {"spherical": all(verdicts.values())}


def diagnostics_table(
    keys: Iterable[str] | None = None, *, parameters: Mapping[str, Mapping[str, Any]] | None = None, seed: int = 0
) -> pd.DataFrame:
    """One row of `diagnose` for each encoder, with its ``family`` and number of ``features``; indexed by key.

    Args:
        keys: encoders to measure; all of `tslab.ENCODERS` by default.
        parameters: position parameters by key; defaults otherwise.
        seed: seed of random parts (anchors, directions, tables).
    """
    rows = []
    for key in ENCODERS if keys is None else keys:
        info = encoder_info(key)
        given = dict((parameters or {}).get(key, {}))
        if "generator" in info.parameters:
            given.setdefault("generator", torch.Generator().manual_seed(seed))
        encoder = position_encoder(key, **given)
        rows.append({"encoder": key, "family": info.family, "features": encoder.out_features} | diagnose(encoder))
    return pd.DataFrame(rows).set_index("encoder")


def encodings(encoder: Encoder, lonlat: Float[Tensor, "n 2"]) -> Float[Tensor, "n d"]:
    """Encodings in float64, without gradients and without dropout; on whatever device the encoder lives."""
    if not callable(encoder):
        raise TypeError(f"encoder must be a function of places (n, 2), got {type(encoder).__name__}")
    features: Any = _of_module(encoder, lonlat) if isinstance(encoder, nn.Module) else encoder(lonlat)
    got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(lonlat):
        raise ValueError(f"encoder must return features (n, d), got {got} for {len(lonlat)} places")
    return features.detach().double().cpu()


@torch.no_grad()
def _of_module(encoder: nn.Module, lonlat: Float[Tensor, "n 2"]) -> Any:
    """What a module answers in evaluation mode, where it lies; a position encoder computes in float64."""
    tensor = next(iter([*encoder.parameters(), *encoder.buffers()]), lonlat)
    weights = next((p.dtype for p in encoder.parameters()), torch.float64)
    was_training = encoder.training
    try:
        dtype = torch.float64 if isinstance(encoder, PositionEncoder) else weights
        return encoder.eval()(lonlat.to(tensor.device, dtype))
    finally:
        encoder.train(was_training)


def _scale(encoder: Encoder, n: int) -> float:
    scale = typical_distance(encoder, n=n)
    if scale == 0:
        raise ValueError("the encoder gives every place the same features, so no distance between them has a meaning")
    return scale


def _random_places(n: int, seed: int) -> Float[Tensor, "n 2"]:
    check_count("n", n, at_least=2)
    check_count("seed", seed, at_least=0)
    return sample_sphere(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _destination(origins: Float[Tensor, "n 2"], bearing: Float[Tensor, " n"], angle: float) -> Float[Tensor, "n 2"]:
    """The places at one angular distance (radians) from ``origins`` in the directions ``bearing`` (radians
    from north, clockwise).
    """
    lon, lat = torch.deg2rad(origins).unbind(-1)
    sin_lat = torch.sin(lat) * math.cos(angle) + torch.cos(lat) * math.sin(angle) * torch.cos(bearing)
    new_lat = torch.asin(sin_lat.clamp(-1, 1))
    across = torch.sin(bearing) * math.sin(angle) * torch.cos(lat)
    new_lon = lon + torch.atan2(across, math.cos(angle) - torch.sin(lat) * sin_lat)
    return _places(torch.rad2deg(new_lon), torch.rad2deg(new_lat))


def _places(lon: Tensor | float, lat: Tensor | float) -> Float[Tensor, "n 2"]:
    """Places from longitudes and latitudes, one of which may be a number; longitudes may be beyond the date line."""
    x, y = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=torch.float64) for v in (lon, lat)))
    return torch.stack([(x + 180) % 360 - 180, y], dim=-1)
