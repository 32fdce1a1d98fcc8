"""Make the table of levels that a study with `--seeds auto` tests at.

    python benchmarks/alpha_spending.py             # compares the table of the package: 2 minutes
    python benchmarks/alpha_spending.py --write     # writes it anew

A study of at most N seeds and k contrasts looks after each seed n = 3 ... N and may raise a false
alarm, on one side, with probability a(n) = (0.025 / k) (n / N)^p up to look n: the spending of Kim
and DeMets (1987) with power p = 2.5, and 3 where N is above 10. For a normal mean with known
variance, whose information grows with n, the recursion of Armitage, McPherson and Rowe (1969) gives
the boundaries z(n).

The product has t tests in place of normal ones. Their p values at successive looks hang together
less closely, so the same levels would spend more than a(N). All levels of a study, 2 Phi(-z(n)),
are therefore multiplied by one factor c(N, k): the largest with which at most a(N) of simulated
paths of t tests ever cross. It is the quantile at a(N) of min over n of p(n) / Phi(-z(n)).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr

from figures import at_most, command_line, report
from segmamba.studies.alpha_spending import (
    CONTRASTS,
    FIRST_LOOK,
    MAX_SEEDS,
    ONE_SIDED,
    TABLE_FILE,
    level,
    spending_power,
)

NODES = 300  # of the Gauss-Legendre rule at each look; 600 change no z by 1e-9
FAR = 9.0  # standard deviations below 0 at which the density is cut
BATCH = 500_000


def boundaries(information: Sequence[float], spent: Sequence[float]) -> np.ndarray:
    """The one-sided boundaries of a normal mean that is looked at repeatedly.

    Args:
        information: The information at each look, rising.
        spent: The probability, without a true effect, of a crossing at that look or before.

    Returns:
        z at each look; crossings are z or more.
    """
    from numpy.polynomial.legendre import leggauss

    points, weights = leggauss(NODES)
    z = [float(-ndtri(spent[0]))]
    grid = density = weight = np.empty(0)
    for i in range(len(information)):
        root = np.sqrt(information[i])
        if i:
            step = np.sqrt(information[i] - information[i - 1])
            mass = density * weight

            def surplus(
                bound: float,
                *,
                mass: np.ndarray = mass,
                grid: np.ndarray = grid,
                root: float = root,
                step: float = step,
                i: int = i,
            ) -> float:
                crossing = float(mass @ ndtr((grid - bound * root) / step))
                return crossing - (spent[i] - spent[i - 1])

            z.append(float(brentq(surplus, 0.0, 9.0, xtol=1e-12)))
        low, high = -FAR * root, z[i] * root
        nodes = low + (high - low) * (points + 1) / 2
        if i:
            kernel = np.exp(-0.5 * ((nodes[:, None] - grid) / step) ** 2)
            density = kernel @ mass / (step * np.sqrt(2 * np.pi))
        else:
            density = np.exp(-0.5 * (nodes / root) ** 2) / (root * np.sqrt(2 * np.pi))
        grid, weight = nodes, weights * (high - low) / 2
    return np.array(z)


def normal_levels(max_seeds: int, contrasts: int) -> np.ndarray:
    """One-sided levels, Phi(-z), of the looks after 3 ... N seeds with known variance."""
    looks = np.arange(FIRST_LOOK, max_seeds + 1)
    spent = ONE_SIDED / contrasts * (looks / max_seeds) ** spending_power(max_seeds)
    return ndtr(-boundaries(looks.tolist(), spent.tolist()))


def t_paths(rng: np.random.Generator, paths: int) -> np.ndarray:
    """One-sided p of t tests over the first 3 ... 15 seeds without a true effect, (paths, 13)."""
    x = rng.standard_normal((paths, max(MAX_SEEDS)))
    n = np.arange(1, x.shape[1] + 1)
    total, squares = x.cumsum(1), (x**2).cumsum(1)
    looks = slice(FIRST_LOOK - 1, None)
    variance = (squares - total**2 / n)[:, looks] / (n[looks] - 1)
    t = total[:, looks] / np.sqrt(n[looks] * variance)
    return stdtr(n[looks] - 1, -t)


def corrections(
    levels: dict[tuple[int, int], np.ndarray], *, paths: int, seed: int
) -> dict[tuple[int, int], float]:
    """The factor c of every (N, k) in `levels`."""
    rng = np.random.default_rng(seed)
    low: list[np.ndarray] = []
    for _ in range(paths // BATCH):
        p = t_paths(rng, BATCH)
        low.append(p[(p < ONE_SIDED).any(1)])
    p = np.concatenate(low)
    c = {}
    for (max_seeds, contrasts), at in levels.items():
        ratio = np.sort((p[:, : len(at)] / at).min(1))
        crossing = int(ONE_SIDED / contrasts * paths)
        c[max_seeds, contrasts] = min(float(ratio[crossing]), 1.0)
    return c


def make_table(*, paths: int, seed: int) -> dict[str, object]:
    """The levels as they are stored: for each N the contrasts' rows, two-sided, after c."""
    levels = {(n, k): normal_levels(n, k) for n in MAX_SEEDS for k in CONTRASTS}
    c = corrections(levels, paths=paths, seed=seed)
    return {
        "about": "two-sided levels by max_seeds, contrasts and look (after 3, 4, ... seeds); "
        "benchmarks/alpha_spending.py --write made it",
        "paths": paths,
        "seed": seed,
        "levels": {
            str(n): {
                str(k): [float(f"{2 * c[n, k] * v:.4g}") for v in levels[n, k]] for k in CONTRASTS
            }
            for n in MAX_SEEDS
        },
        "corrections": {str(n): {str(k): round(c[n, k], 4) for k in CONTRASTS} for n in MAX_SEEDS},
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--paths", type=int, default=20_000_000, help="simulated paths of t tests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE_FILE.name}")
    options: argparse.Namespace = parser.parse_args()
    start = time.perf_counter()
    table = make_table(paths=options.paths, seed=options.seed)
    if options.write:
        text = json.dumps(table, indent=1)
        TABLE_FILE.write_text(_one_row_a_line(text) + "\n")
        print(f"{TABLE_FILE} written in {time.perf_counter() - start:.0f} s")
        return
    rows = table["levels"]
    assert isinstance(rows, dict)
    worst = max(
        abs(level(n, FIRST_LOOK + i, k) / value - 1)
        for n in MAX_SEEDS
        for k in CONTRASTS
        for i, value in enumerate(rows[str(n)][str(k)])
    )
    for n in (10, 15):
        print(f"N = {n}, one contrast: " + " ".join(f"{v:.4f}" for v in rows[str(n)]["1"]))
    report({"largest_relative_change": at_most(worst, 0.03)}, options.json, numpy=np.__version__)
    print(f"{time.perf_counter() - start:.0f} s")


def _one_row_a_line(text: str) -> str:
    """JSON with each list of numbers on one line."""
    import re

    return re.sub(
        r"\[[^\]]*\]", lambda found: " ".join(found.group().split()).replace("[ ", "["), text
    ).replace(" ]", "]")


if __name__ == "__main__":
    main()
