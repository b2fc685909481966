r"""A few wavelengths per band that stand for all of it when dust dims the light.

A band's flux is a weighted sum over wavelengths of spectrum times attenuation A. We look for n
wavelengths and functions l_s with A(lambda) ~ sum_s l_s(lambda) A(lambda_s) for every curve that the
prior allows, because then

.. math:: \sum_j K_j f_j A_j \approx \sum_s A(\lambda_s) \Big[ \sum_j K_j f_j\, l_s(\lambda_j) \Big],

and the bracket is integrated ahead of time. This is empirical interpolation (Barrault et al. 2004;
Chaturantabut & Sorensen 2010, SIAM J. Sci. Comput. 32, 2737; nodes by pivoted QR as in Drmac & Gugercin
2016): the functions span the leading singular vectors of a sample of curves.
"""

from collections.abc import Sequence

import numpy as np
import scipy.integrate
import scipy.linalg
from jaxtyping import Float

from sed.dust import BIRTH_CLOUD_INDEX, WAVE_V_AA, DustCurve
from sed.filters import Filter

_N_SAMPLE = 96
_DUST_MAX = 4.0
_INDEX_RANGE = (-1.2, 0.6)

_NEGLIGIBLE = 1e-30
"""A curve that passes less than this part of a band's light does not shape its rule."""

_DIM = 1e-3
"""Below this part of a band's light, a curve's error counts in proportion to what it passes."""

_ULTRAVIOLET_AA = 3200.0
_N_ULTRAVIOLET = 5
_N_BY_WIDTH = ((0.12, 2), (0.30, 3), (0.60, 4), (np.inf, 6))
_OUTSIDE = 1e-4


def band_node_count(band: Filter) -> int:
    """Nodes that a band needs at any redshift: 5 in the ultraviolet, else by width.

    The width is the difference in the logarithm of wavelength between where 0.01 % and 99.99 % of the
    transmission have been passed, so that a leak counts: 2 nodes below 0.12 (medium bands), 3 below 0.3,
    4 below 0.6, else 6. Differences from the whole spectrum: `benchmarks.sed_accuracy`.
    """
    if band.wave_pivot < _ULTRAVIOLET_AA:
        return _N_ULTRAVIOLET
    log_wave = np.log(np.asarray(band.wave, np.float64))
    transmission = np.clip(np.asarray(band.transmission, np.float64), 0.0, None)
    passed = np.asarray(scipy.integrate.cumulative_trapezoid(transmission, log_wave, initial=0))
    low, high = np.interp([_OUTSIDE, 1 - _OUTSIDE], passed / passed[-1], log_wave)
    return next(count for limit, count in _N_BY_WIDTH if high - low < limit)


def attenuation_sample(
    wave: Float[np.ndarray, " wave"], curve: type[DustCurve]
) -> Float[np.ndarray, "sample wave"]:
    """Attenuation of young and old stars for dust spread evenly over what priors allow.

    ``dust2`` and ``dust1`` from 0 to 4, ``dust_index`` from -1.2 to 0.6, by a Halton sequence; the first
    row is no dust. In double precision, whatever that of JAX.
    """
    from scipy.stats import qmc

    draws = qmc.Halton(3, scramble=False).random(_N_SAMPLE)
    at = curve.at(wave)
    cloud = (wave / WAVE_V_AA) ** BIRTH_CLOUD_INDEX
    rows = []
    for i, (a, b, c) in enumerate(draws):
        index = _INDEX_RANGE[0] + b * (_INDEX_RANGE[1] - _INDEX_RANGE[0])
        depth = _DUST_MAX * a * np.asarray(at(float(index)), np.float64)
        rows.append(depth + (_DUST_MAX * c * cloud if i % 2 else 0.0))
    return np.asarray(np.exp(-np.array(rows)))


class NodeFinder:
    """Nodes and integration rules for the rows of a projection matrix.

    Parameters
    ----------
    wave : Angstrom
        Rest-frame wavelengths.
    flux
        Spectra of the grid; where they have light decides where accuracy is spent.
    curve
        Kind of attenuation curve.
    """

    def __init__(
        self,
        wave: Float[np.ndarray, " wave"],
        flux: Float[np.ndarray, "met age wave"],
        curve: type[DustCurve],
    ) -> None:
        self.wave = wave
        self._curves = attenuation_sample(wave, curve)
        self._light = _typical_light(flux)

    def __call__(
        self, rows: Float[np.ndarray, "row wave"], counts: Sequence[int]
    ) -> tuple[Float[np.ndarray, " out"], Float[np.ndarray, "out wave"]]:
        """Nodes and rules of projections (bands, energy pieces), one a row.

        Parameters
        ----------
        rows
            Projections of a spectrum.
        counts
            Number of nodes of each row.

        Returns
        -------
        wavelengths
            The nodes of each row, one row after the other, Angstrom.
        basis
            ``basis[out] @ spectrum`` times the attenuation at the node, summed over a row's nodes, is the
            row's projection of the attenuated spectrum.

        Raises
        ------
        ValueError
            If a count is below 1.
        """
        nodes, rules = [], []
        for row, count in zip(rows, counts, strict=True):
            if count < 1:
                raise ValueError(f"`counts` must be at least 1 for each row, got {count}.")
            one = self._rule(row, count)
            nodes.append(one[0])
            rules.append(one[1])
        if not nodes:
            return np.zeros(0), np.zeros((0, len(self.wave)))
        return np.concatenate(nodes), np.concatenate(rules)

    def _rule(
        self, row: Float[np.ndarray, " wave"], n_node: int
    ) -> tuple[Float[np.ndarray, " node"], Float[np.ndarray, "node wave"]]:
        """Nodes of one row; those that are not needed take no light."""
        nodes = np.full(n_node, self.wave[np.argmax(row)])
        basis = np.zeros((n_node, len(self.wave)))
        weight = row * self._light
        inside = np.flatnonzero(weight > 1e-9 * max(weight.max(), 1e-300))
        if len(inside) < n_node:  # no light here: any node will do, it carries what there is
            basis[0] = row
            return nodes, basis
        weight = weight[inside] / weight.max()
        root = np.sqrt(weight)
        sample = self._curves[:, inside]
        passed = sample @ weight
        keep = passed > _NEGLIGIBLE * passed.max()
        # Relative accuracy is the aim, but less so for curves that put the light out.
        part = passed[keep] / passed.max()
        scaled = sample[keep] / (part + _DIM)[:, None] * root
        # Leading left singular vectors through the small Gram matrix: ten times faster than an SVD.
        n_sample = len(scaled)
        n = min(n_node, n_sample)
        _, coefficient = scipy.linalg.eigh(scaled @ scaled.T, subset_by_index=(n_sample - n, n_sample - 1))
        vectors = np.linalg.qr(scaled.T @ coefficient[:, ::-1])[0]
        picked = np.sort(scipy.linalg.qr(vectors.T, pivoting=True, mode="r")[1][:n])
        rule = np.linalg.solve((vectors[picked] / root[picked, None]).T, (vectors / root[:, None]).T)
        nodes[:n] = self.wave[inside[picked]]
        basis[:n, inside] = rule * row[inside]
        return nodes, basis


def _typical_light(flux: Float[np.ndarray, "met age wave"]) -> Float[np.ndarray, " wave"]:
    """Mean of young, middle-aged and old spectra of middling metallicity, each scaled to its energy."""
    n_met, n_age, _ = flux.shape
    picks = [flux[n_met * 2 // 3, int(n_age * part)] for part in (0.1, 0.35, 0.6, 0.8, 0.95)]
    return np.asarray(np.mean([spectrum / max(spectrum.max(), 1e-300) for spectrum in picks], axis=0))
