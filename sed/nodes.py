r"""A few wavelengths per band that stand for all of it when dust dims the light.

A band's flux is a weighted sum over wavelengths of spectrum times attenuation A. We look for n
wavelengths and functions l_s with A(lambda) ~ sum_s l_s(lambda) A(lambda_s) for every curve that the
prior allows, because then

.. math:: \sum_j K_j f_j A_j \approx \sum_s A(\lambda_s) \Big[ \sum_j K_j f_j\, l_s(\lambda_j) \Big],

and the bracket is integrated ahead of time. This is empirical interpolation (Barrault et al. 2004;
Chaturantabut & Sorensen 2010, SIAM J. Sci. Comput. 32, 2737; nodes by pivoted QR as in Drmac & Gugercin
2016): the functions span the leading singular vectors of a sample of curves.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float

from sed.dust import DustCurve, birth_cloud_transmission, diffuse_transmission

_N_SAMPLE = 96
_DUST_MAX = 4.0
_INDEX_RANGE = (-1.2, 0.6)


def attenuation_sample(
    wave: Float[np.ndarray, " wave"], curve: type[DustCurve]
) -> Float[np.ndarray, "sample wave"]:
    """Attenuation of young and old stars for dust spread evenly over what priors allow.

    ``dust2`` and ``dust1`` from 0 to 4, ``dust_index`` from -1.2 to 0.6, by a Halton sequence; the first
    row is no dust.
    """
    from scipy.stats import qmc

    draws = qmc.Halton(3, scramble=False).random(_N_SAMPLE)
    at = curve.at(wave)
    rows = []
    for i, (a, b, c) in enumerate(draws):
        index = _INDEX_RANGE[0] + b * (_INDEX_RANGE[1] - _INDEX_RANGE[0])
        row = np.asarray(diffuse_transmission(at, float(_DUST_MAX * a), float(index)), np.float64)
        if i % 2:
            row = row * np.asarray(birth_cloud_transmission(at, float(_DUST_MAX * c)), np.float64)
        rows.append(row)
    return np.array(rows)


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
    n_node
        Nodes per row.
    """

    def __init__(
        self,
        wave: Float[np.ndarray, " wave"],
        flux: Float[np.ndarray, "met age wave"],
        curve: type[DustCurve],
        n_node: int,
    ) -> None:
        if n_node < 1:
            raise ValueError(f"`n_node` must be at least 1, got {n_node}.")
        self.wave, self.n_node = wave, n_node
        self._curves = attenuation_sample(wave, curve)
        self._light = _typical_light(flux)

    def __call__(
        self, rows: Float[np.ndarray, "row wave"]
    ) -> tuple[Float[np.ndarray, " out"], Float[np.ndarray, "out wave"]]:
        """Nodes and rules of projections (bands, energy pieces), one a row.

        Returns
        -------
        wavelengths
            ``n_node`` for each row, one row after the other, Angstrom.
        basis
            ``basis[out] @ spectrum`` times the attenuation at the node, summed over a row's nodes, is the
            row's projection of the attenuated spectrum.
        """
        n_node, wave = self.n_node, self.wave
        nodes = np.empty((len(rows), n_node))
        basis = np.zeros((len(rows), n_node, len(wave)))
        for i, row in enumerate(rows):
            weight = row * self._light
            inside = np.flatnonzero(weight > 1e-9 * max(weight.max(), 1e-300))
            if len(inside) < n_node:  # no light here: any node will do, it carries what there is
                nodes[i] = wave[np.argmax(row)]
                basis[i, 0] = row
                continue
            root = np.sqrt(weight[inside] / weight.max())
            sample = self._curves[:, inside]
            sample = sample / (sample @ weight[inside])[:, None]
            scaled = sample * root
            # Leading left singular vectors through the small Gram matrix: ten times faster than an SVD.
            n_sample = len(scaled)
            _, coefficient = scipy.linalg.eigh(
                scaled @ scaled.T, subset_by_index=(n_sample - n_node, n_sample - 1)
            )
            vectors = np.linalg.qr(scaled.T @ coefficient[:, ::-1])[0]
            picked = np.sort(scipy.linalg.qr(vectors.T, pivoting=True, mode="r")[1][:n_node])
            rule = np.linalg.solve((vectors[picked] / root[picked, None]).T, (vectors / root[:, None]).T)
            nodes[i] = wave[inside[picked]]
            basis[i][:, inside] = rule * row[inside]
        return nodes.ravel(), basis.reshape(-1, len(wave))


def _typical_light(flux: Float[np.ndarray, "met age wave"]) -> Float[np.ndarray, " wave"]:
    """Mean of young, middle-aged and old spectra of middling metallicity, each scaled to its energy."""
    n_met, n_age, _ = flux.shape
    picks = [flux[n_met * 2 // 3, int(n_age * part)] for part in (0.1, 0.35, 0.6, 0.8, 0.95)]
    return np.mean([spectrum / max(spectrum.max(), 1e-300) for spectrum in picks], axis=0)
