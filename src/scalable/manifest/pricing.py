"""Estimates what a plan costs, from a small dated table or from prices of the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from scalable.common.units import HOURS_PER_MONTH, memory_bytes
from scalable.manifest.model import Prices, Target
from scalable.manifest.providers.base import WorkerGroup

#: Month of the prices below: list prices on demand.
PRICES_OF: Final = "2025-01"
#: Provider → region → price of a core and of 10⁹ bytes of memory for an hour, in USD. The first
#: region is used for regions that are not listed. AWS: Fargate on Linux/x86; GCP: E2 machines.
_TABLE: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "aws": {
        "us-east-1": (0.04048, 0.004445),
        "us-west-2": (0.04048, 0.004445),
        "eu-west-1": (0.04048, 0.004445),
        "eu-central-1": (0.04656, 0.00511),
    },
    "gcp": {
        "us-central1": (0.021811, 0.002923),
        "europe-west1": (0.023993, 0.003216),
    },
}
#: Providers whose machines cost nothing more.
_FREE: Final = frozenset({"local", "existing"})


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan may cost; never what is charged.

    Attributes
    ----------
    currency : str
        ISO 4217 code.
    total_hourly, total_monthly : float
        With all workers running; a month has 730 hours.
    line_items : list of dict
        One for each group of workers.
    basis : str
        Where the prices are from.
    as_of : str
        Month of the prices; empty for those of the manifest.
    """

    currency: str
    total_hourly: float
    total_monthly: float
    line_items: list[dict[str, Any]]
    basis: str
    as_of: str

    def record_fields(self) -> dict[str, Any]:
        """Return the arguments of :func:`scalable.record_cost` for it."""
        return {
            "currency": self.currency,
            "total_hourly": self.total_hourly,
            "total_monthly": self.total_monthly,
            "line_items": self.line_items,
            "metadata": {"estimate": True, "basis": self.basis, "as_of": self.as_of},
        }


def estimate(provider: str, target: Target, groups: Sequence[WorkerGroup]) -> Estimate | None:
    """Estimate the cost of an hour; None if no price is known."""
    found = _prices(provider, target)
    if found is None:
        return None
    prices, basis, as_of = found
    items: list[dict[str, Any]] = []
    for group in groups:
        memory = memory_bytes(group.memory) / 1e9 if group.memory else 0.0
        hourly = group.cpus * prices.core_hour + memory * prices.gb_hour + prices.worker_hour
        items.append(
            {
                "components": list(group.components),
                "workers": group.workers,
                "cpus": group.cpus,
                "memory_gb": memory,
                "worker_hourly": round(hourly, 6),
                "total_hourly": round(hourly * group.workers, 6),
            }
        )
    total = sum(item["total_hourly"] for item in items)
    monthly = round(total * HOURS_PER_MONTH, 2)
    return Estimate(prices.currency, round(total, 6), monthly, items, basis, as_of)


def _prices(provider: str, target: Target) -> tuple[Prices, str, str] | None:
    """Return prices, where they are from, and their month."""
    if target.prices is not None:
        return target.prices, "prices of the manifest", ""
    if provider in _FREE:
        return _prices_of(), "your own machine", ""
    regions = _TABLE.get(provider)
    if regions is None:
        return None
    region = target.region or str(getattr(target, "zone", "")).rpartition("-")[0]
    region = region if region in regions else next(iter(regions))
    return _prices_of(*regions[region]), f"built-in list prices of {provider}, {region}", PRICES_OF


def _prices_of(core_hour: float = 0.0, gb_hour: float = 0.0) -> Prices:
    return Prices(core_hour=core_hour, gb_hour=gb_hour, worker_hour=0.0)
