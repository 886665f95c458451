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


def seam_gap(
    encoder: Encoder, *, lat_deg: Iterable[float] | None = None, epsilon_deg: float = EPSILON_DEG, n: int = 2048
) -> float:
    """How far the encoding jumps at the date line: 0 is continuous, 1 is as far as two random places.

    Root mean square over latitudes of |Enc(180 - e, lat) - Enc(-180 + e, lat)|, divided by
    `typical_distance`. The latitudes are 181 values from -89.5 to 89.5 weighted by the length of their
    parallel, unless ``lat_deg`` is given.
    """
    lat = torch.linspace(-89.5, 89.5, 181) if lat_deg is None else torch.as_tensor(list(lat_deg))
    check_number("epsilon_deg", epsilon_deg, above=0, below=180)
    if not len(lat) or bool((~(lat.abs() <= 90)).any()):
        raise ValueError(f"lat_deg must be latitudes between -90 and 90 degrees, got {lat.tolist()}")
    lat = lat.double()
    weight = torch.cos(torch.deg2rad(lat))
    east = encodings(encoder, torch.stack([torch.full_like(lat, 180 - epsilon_deg), lat], dim=-1))
    west = encodings(encoder, torch.stack([torch.full_like(lat, -180 + epsilon_deg), lat], dim=-1))
    squared = (east - west).square().sum(-1)
    return math.sqrt(float((weight * squared).sum() / weight.sum())) / _scale(encoder, n)


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
        features = encodings(encoder, torch.stack([lon, torch.full_like(lon, pole)], dim=-1))
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
        lon, lat = lon_deg + turn, torch.where(turn.isnan(), turn, torch.full_like(turn, lat_deg))
    else:
        sign = -1.0 if lat_deg > 0 else 1.0
        lat = lat_deg + sign * torch.rad2deg(angle)
        over = lat.abs() > 90
        lat = torch.where(over, sign * 180 - lat, lat)
        lon = torch.where(over, torch.full_like(lat, lon_deg + 180), torch.full_like(lat, lon_deg))
    return torch.stack([(lon + 180) % 360 - 180, lat], dim=-1)


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
        along = [
            kernel_profile(encoder, distances, lon_deg=lon, lat_deg=lat_deg, direction=direction)
            for direction in ("parallel", "meridian")
        ]
        gaps.append((along[0] - along[1]).abs().nanmean())
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
    row: dict[str, Any] = {
        "seam_gap": seam_gap(encoder),
        "pole_spread": pole_spread(encoder),
        "anisotropy": anisotropy(encoder),
        "rank": numerical_rank(encoder),
        "effective_rank": effective_rank(encoder),
        "resolution_km": resolution_km(encoder),
    }
    row["continuous"] = row["seam_gap"] < 1e-3
    row["single_valued_poles"] = row["pole_spread"] < 1e-3
    row["isotropic"] = row["anisotropy"] < 1e-3
    row["spherical"] = row["continuous"] and row["single_valued_poles"] and row["isotropic"]
    return row


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
    features = _features(encoder, lonlat)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(lonlat):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"encoder must return features (n, d), got {got} for {len(lonlat)} places")
    return features.detach().double().cpu()


def _features(encoder: Encoder, lonlat: Float[Tensor, "n 2"]) -> Any:
    if not isinstance(encoder, nn.Module):
        return encoder(lonlat)
    tensors = [*encoder.parameters(), *encoder.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    weights = next((p.dtype for p in encoder.parameters()), torch.float64)
    dtype = torch.float64 if isinstance(encoder, PositionEncoder) else weights
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            return encoder(lonlat.to(device, dtype))
    finally:
        encoder.train(was_training)


def _scale(encoder: Encoder, n: int) -> float:
    scale = typical_distance(encoder, n=n)
    if scale == 0:
        raise ValueError(
            "the encoder gives every place the same features, so that no distance between them has a meaning"
        )
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
    degrees = torch.rad2deg(torch.stack([new_lon, new_lat], dim=-1))
    degrees[:, 0] = (degrees[:, 0] + 180) % 360 - 180
    return degrees
