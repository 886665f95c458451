"""Köppen–Geiger climate zones from twelve monthly means of temperature and precipitation.

The rules are those of Beck et al. (Scientific Data 5, 2018, table 2), which follow Peel, Finlayson and McMahon
(Hydrology and Earth System Sciences 11, 2007), with two choices that papers leave open: the limit between temperate (C)
and cold (D) climates is the -3 °C of Köppen, and a dry winter of the tropics is Aw, a dry summer As, as in Kottek et
al. (Meteorologische Zeitschrift 15, 2006).
"""

import numpy as np
from numpy.typing import NDArray

ZONES = (
    *("Af", "Am", "As", "Aw", "BWh", "BWk", "BSh", "BSk"),
    *("Csa", "Csb", "Csc", "Cwa", "Cwb", "Cwc", "Cfa", "Cfb", "Cfc"),
    *("Dsa", "Dsb", "Dsc", "Dsd", "Dwa", "Dwb", "Dwc", "Dwd", "Dfa", "Dfb", "Dfc", "Dfd"),
    *("ET", "EF"),
)
"""The zones, in the order of their numbers."""

COLD_LIMIT = -3.0
"""Mean of the coldest month, °C: above it temperate, else cold."""

APRIL_TO_SEPTEMBER = np.isin(np.arange(12), (3, 4, 5, 6, 7, 8))


def climate_zones(
    temperature: NDArray[np.floating], precipitation: NDArray[np.floating], north: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Number in `ZONES` of each place.

    Args:
        temperature: (12, ...) monthly means from January, °C.
        precipitation: (12, ...) monthly sums, mm.
        north: (...) True in the northern hemisphere, where summer is April to September.
    """
    year_t, year_p = temperature.mean(0), precipitation.sum(0)
    warmest, coldest = temperature.max(0), temperature.min(0)
    summer = APRIL_TO_SEPTEMBER.reshape(12, *[1] * north.ndim) == north
    dryest = precipitation.min(0)
    in_summer, in_winter = np.where(summer, precipitation, np.nan), np.where(summer, np.nan, precipitation)
    summer_p, winter_p = np.nansum(in_summer, 0), np.nansum(in_winter, 0)
    summer_dry, summer_wet = np.nanmin(in_summer, 0), np.nanmax(in_summer, 0)
    winter_dry, winter_wet = np.nanmin(in_winter, 0), np.nanmax(in_winter, 0)

    threshold = 2 * year_t + np.select([summer_p >= 0.7 * year_p, winter_p >= 0.7 * year_p], [28, 0], 14)
    polar = warmest < 10
    arid = ~polar & (year_p < 10 * threshold)
    tropical = ~polar & ~arid & (coldest >= 18)
    temperate = ~polar & ~arid & ~tropical & (coldest > COLD_LIMIT)

    dry_summer = (summer_dry < winter_dry) & (winter_wet > 3 * summer_dry) & (summer_dry < 40)
    dry_winter = (winter_dry < summer_dry) & (summer_wet > 10 * winter_dry)
    both = dry_summer & dry_winter  # the drier half of the year decides
    dry_summer, dry_winter = dry_summer & (~both | (summer_p < winter_p)), dry_winter & (~both | (summer_p >= winter_p))
    second = np.select([dry_summer, dry_winter], [0, 1], 2)  # s, w, f
    mild = (temperature >= 10).sum(0) >= 4
    third = np.select([warmest >= 22, mild, ~temperate & (coldest <= -38)], [0, 1, 3], 2)  # a, b, d, c

    number = ZONES.index
    return np.select(
        [polar, arid, tropical, temperate],
        [
            np.where(warmest > 0, number("ET"), number("EF")),
            number("BWh") + 2 * (year_p >= 5 * threshold) + (year_t < 18),
            np.select(
                [dryest >= 60, dryest >= 100 - year_p / 25, summer_dry < winter_dry],
                [number("Af"), number("Am"), number("As")],
                number("Aw"),
            ),
            number("Csa") + 3 * second + third,
        ],
        number("Dsa") + 4 * second + third,
    ).astype(np.uint8)
