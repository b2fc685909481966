r"""Mean transmission of the intergalactic medium, exp(-factor * tau), towards a galaxy at ``zred``.

- `igm_transmission_madau`: Madau (1995) in the approximation that FSPS uses, quirks included.
- `igm_transmission_inoue`: Inoue et al. (2014), the better description of the data.

A photon of rest wavelength ``wave_rest`` is seen at wave_rest (1 + zred); on its way it is absorbed by
line j at redshift z_abs if wave_rest (1 + zred) = wave_j (1 + z_abs), 0 < z_abs < zred, and by the
Lyman continuum while its wavelength in the absorber's frame is below the Lyman limit. Both are means
over lines of sight: the scatter between sight lines is not modelled, ``factor`` can stand in for it.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

# Madau (1995) as in FSPS ``igm_absorb.f90``: wavelength in Angstrom, coefficient of the optical depth.
_MADAU_LINES = np.array(
    [
        (1215.67, 0.0036), (1025.72, 0.0017), (972.537, 0.0011846), (949.743, 0.0009410),
        (937.803, 0.0007960), (930.748, 0.0006967), (926.226, 0.0006236), (923.150, 0.0005665),
        (920.963, 0.0005200), (919.352, 0.0004817), (918.129, 0.0004487), (917.181, 0.0004200),
        (916.429, 0.0003947), (915.824, 0.000372), (915.329, 0.000352), (914.919, 0.0003334),
        (914.576, 0.00031644),
    ]
)  # fmt: skip
_MADAU_METAL = 0.0017
_MADAU_LIMIT = 911.75

# Inoue et al. (2014), Table 2, lines j = 2 (Lyman alpha) to 40: wavelength in Angstrom, then the
# coefficients A1, A2, A3 of the Lyman alpha forest and A1, A2 of the damped systems.
_INOUE_LINES = np.array(
    [
        (1215.670, 1.690e-02, 2.354e-03, 1.026e-04, 1.617e-04, 5.390e-05),
        (1025.720, 4.692e-03, 6.536e-04, 2.849e-05, 1.545e-04, 5.151e-05),
        (972.537, 2.239e-03, 3.119e-04, 1.360e-05, 1.498e-04, 4.992e-05),
        (949.743, 1.319e-03, 1.837e-04, 8.010e-06, 1.460e-04, 4.868e-05),
        (937.803, 8.707e-04, 1.213e-04, 5.287e-06, 1.429e-04, 4.763e-05),
        (930.748, 6.178e-04, 8.606e-05, 3.752e-06, 1.402e-04, 4.672e-05),
        (926.226, 4.609e-04, 6.421e-05, 2.799e-06, 1.377e-04, 4.590e-05),
        (923.150, 3.569e-04, 4.971e-05, 2.167e-06, 1.355e-04, 4.516e-05),
        (920.963, 2.843e-04, 3.960e-05, 1.726e-06, 1.335e-04, 4.448e-05),
        (919.352, 2.318e-04, 3.229e-05, 1.407e-06, 1.316e-04, 4.385e-05),
        (918.129, 1.923e-04, 2.679e-05, 1.168e-06, 1.298e-04, 4.326e-05),
        (917.181, 1.622e-04, 2.259e-05, 9.847e-07, 1.281e-04, 4.271e-05),
        (916.429, 1.385e-04, 1.929e-05, 8.410e-07, 1.265e-04, 4.218e-05),
        (915.824, 1.196e-04, 1.666e-05, 7.263e-07, 1.250e-04, 4.168e-05),
        (915.329, 1.043e-04, 1.453e-05, 6.334e-07, 1.236e-04, 4.120e-05),
        (914.919, 9.174e-05, 1.278e-05, 5.571e-07, 1.222e-04, 4.075e-05),
        (914.576, 8.128e-05, 1.132e-05, 4.936e-07, 1.209e-04, 4.031e-05),
        (914.286, 7.251e-05, 1.010e-05, 4.403e-07, 1.197e-04, 3.989e-05),
        (914.039, 6.505e-05, 9.062e-06, 3.950e-07, 1.185e-04, 3.949e-05),
        (913.826, 5.868e-05, 8.174e-06, 3.563e-07, 1.173e-04, 3.910e-05),
        (913.641, 5.319e-05, 7.409e-06, 3.230e-07, 1.162e-04, 3.872e-05),
        (913.480, 4.843e-05, 6.746e-06, 2.941e-07, 1.151e-04, 3.836e-05),
        (913.339, 4.427e-05, 6.167e-06, 2.689e-07, 1.140e-04, 3.800e-05),
        (913.215, 4.063e-05, 5.660e-06, 2.467e-07, 1.130e-04, 3.766e-05),
        (913.104, 3.738e-05, 5.207e-06, 2.270e-07, 1.120e-04, 3.732e-05),
        (913.006, 3.454e-05, 4.811e-06, 2.097e-07, 1.110e-04, 3.700e-05),
        (912.918, 3.199e-05, 4.456e-06, 1.943e-07, 1.101e-04, 3.668e-05),
        (912.839, 2.971e-05, 4.139e-06, 1.804e-07, 1.091e-04, 3.637e-05),
        (912.768, 2.766e-05, 3.853e-06, 1.680e-07, 1.082e-04, 3.607e-05),
        (912.703, 2.582e-05, 3.596e-06, 1.568e-07, 1.073e-04, 3.578e-05),
        (912.645, 2.415e-05, 3.364e-06, 1.466e-07, 1.065e-04, 3.549e-05),
        (912.592, 2.263e-05, 3.153e-06, 1.375e-07, 1.056e-04, 3.521e-05),
        (912.543, 2.126e-05, 2.961e-06, 1.291e-07, 1.048e-04, 3.493e-05),
        (912.499, 2.000e-05, 2.785e-06, 1.214e-07, 1.040e-04, 3.466e-05),
        (912.458, 1.885e-05, 2.625e-06, 1.145e-07, 1.032e-04, 3.440e-05),
        (912.420, 1.779e-05, 2.479e-06, 1.080e-07, 1.024e-04, 3.414e-05),
        (912.385, 1.682e-05, 2.343e-06, 1.022e-07, 1.017e-04, 3.389e-05),
        (912.353, 1.593e-05, 2.219e-06, 9.673e-08, 1.009e-04, 3.364e-05),
        (912.324, 1.510e-05, 2.103e-06, 9.169e-08, 1.002e-04, 3.339e-05),
    ]
)
_INOUE_LIMIT = 911.8


def igm_transmission_madau(
    wave_rest: Float[ArrayLike, " wave"],
    zred: Float[ArrayLike, ""],
    factor: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, " wave"]:
    r"""Madau (1995) transmission exactly as FSPS applies it (``add_igm_absorption``).

    With x = wave_rest (1 + zred) / 911.75 and sums over the lines redward of ``wave_rest``,

    .. math:: \tau = \sum_j A_j \left(\frac{\lambda_{obs}}{\lambda_j}\right)^{3.46}
              + 0.0017 \left(\frac{\lambda_{obs}}{\lambda_\alpha}\right)^{1.68} + \tau_{LyC}(x)

    Two habits of FSPS are kept. The continuum term is its version of the approximation in Madau's
    footnote 3. It fails at very short wavelengths, therefore everything blueward of the largest optical
    depth *on the given grid* is set to that largest value. FSPS skips zred = 0; so should the caller.

    Parameters
    ----------
    wave_rest : Angstrom
        Vacuum wavelength in the galaxy's frame, ascending. It should begin below 900 A, if it has
        anything below Lyman alpha, for the cap to act as in FSPS.
    zred
        Redshift of the galaxy.
    factor : dimensionless
        Multiplies the optical depth (``igm_factor`` of FSPS).

    Returns
    -------
    dimensionless
        Factor on the spectrum; 1 redward of Lyman alpha.

    References
    ----------
    Madau 1995, ApJ 441, 18, Eqs. 12, 15, 16 and footnote 3; FSPS ``igm_absorb.f90``.
    """
    wave = jnp.asarray(wave_rest)
    z1 = 1.0 + jnp.asarray(zred, wave.dtype)
    line, coeff = jnp.asarray(_MADAU_LINES.T, wave.dtype)[:, :, None]
    # Masked inputs become 1: long wavelengths must not overflow, nor reach the gradient as 0 * inf.
    absorbed = wave <= line
    ratio = jnp.where(absorbed, wave * z1 / line, 1.0)
    tau = jnp.sum(coeff * ratio**3.46, axis=0, where=absorbed)
    tau += jnp.where(absorbed[0], _MADAU_METAL * ratio[0] ** 1.68, 0.0)

    ionizing = wave <= _MADAU_LIMIT
    x = jnp.where(ionizing, wave * z1 / _MADAU_LIMIT, 1.0)
    continuum = (
        0.25 * x**3 * (z1**0.46 - x**0.46)
        + 9.4 * x**1.5 * (z1**0.18 - x**0.18)
        - 0.7 * x**3 * (x**-1.32 - z1**-1.32)
        - 0.023 * (z1**1.68 - x**1.68)
    )
    tau += jnp.where(ionizing, continuum, 0.0)
    peak = jnp.argmax(tau)
    tau = jnp.where(jnp.arange(wave.shape[0]) <= peak, tau[peak], tau)
    return jnp.exp(-tau * factor)


def igm_transmission_inoue(
    wave_rest: Float[ArrayLike, " wave"],
    zred: Float[ArrayLike, ""],
    factor: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, " wave"]:
    r"""Inoue et al. (2014) transmission: Lyman series and continuum, forest and damped systems.

    .. math:: \tau = \tau_{LS}^{LAF} + \tau_{LS}^{DLA} + \tau_{LC}^{LAF} + \tau_{LC}^{DLA}

    Where the photon reaches us blueward of the Lyman limit (observed wavelength below 911.8 A), outside
    the range of the paper, the path ends at redshift 0: the forest's optically thin continuum then scales
    as wavelength^2.1 and the optically thick systems' is constant.

    Parameters
    ----------
    wave_rest : Angstrom
        Vacuum wavelength in the galaxy's frame, any order.
    zred
        Redshift of the galaxy, >= 0.
    factor : dimensionless
        Multiplies the optical depth.

    Returns
    -------
    dimensionless
        Factor on the spectrum, in (0, 1]; 1 redward of Lyman alpha.

    References
    ----------
    Inoue, Shimizu, Iwata & Tanaka 2014, MNRAS 442, 1805: Eqs. 21, 22 and 25-29, Table 2.
    """
    wave = jnp.asarray(wave_rest)
    z1 = 1.0 + jnp.asarray(zred, wave.dtype)
    tau = _inoue_series(wave, z1)
    ionizing = wave < _INOUE_LIMIT
    x = jnp.where(ionizing, wave * z1 / _INOUE_LIMIT, z1)
    seen = jnp.maximum(x, 1.0)
    # Rounded coefficients leave about -1e-5 at the end of the path; an optical depth is not negative.
    forest = jnp.maximum(_inoue_continuum_forest(seen, z1), 0.0) * jnp.minimum(x, 1.0) ** 2.1
    damped = jnp.maximum(_inoue_continuum_damped(seen, z1), 0.0)
    tau += jnp.where(ionizing, forest + damped, 0.0)
    return jnp.exp(-tau * factor)


def _inoue_series(wave: Float[Array, " wave"], z1: Float[Array, ""]) -> Float[Array, " wave"]:
    """Optical depth of the Lyman series: Inoue et al. (2014), Eqs. 21 and 22."""
    line, f1, f2, f3, d1, d2 = jnp.asarray(_INOUE_LINES.T, wave.dtype)[:, :, None]
    ratio = wave * z1 / line  # 1 + z_abs
    absorbed = (wave < line) & (ratio > 1.0)
    ratio = jnp.where(absorbed, ratio, 1.0)
    forest = jnp.select([ratio < 2.2, ratio < 5.7], [f1 * ratio**1.2, f2 * ratio**3.7], f3 * ratio**5.5)
    damped = jnp.where(ratio < 3.0, d1 * ratio**2, d2 * ratio**3)
    return jnp.sum(forest + damped, axis=0, where=absorbed)


def _inoue_continuum_forest(x: Float[Array, " wave"], z1: Float[Array, ""]) -> Float[Array, " wave"]:
    """Lyman continuum of the forest, 1 <= x <= z1: Inoue et al. (2014), Eqs. 25-27.

    Coefficients carry the fourth digit of the authors' code, which rounds to the printed three, so that the
    pieces meet where they should.
    """
    low = 0.3248 * (x**1.2 - z1**-0.9 * x**2.1)
    middle = jnp.where(
        x < 2.2,
        2.545e-2 * z1**1.6 * x**2.1 + 0.3248 * x**1.2 - 0.2496 * x**2.1,
        2.545e-2 * (z1**1.6 * x**2.1 - x**3.7),
    )
    high = jnp.select(
        [x < 2.2, x < 5.7],
        [
            5.221e-4 * z1**3.4 * x**2.1 + 0.3248 * x**1.2 - 3.140e-2 * x**2.1,
            5.221e-4 * z1**3.4 * x**2.1 + 0.2182 * x**2.1 - 2.545e-2 * x**3.7,
        ],
        5.221e-4 * (z1**3.4 * x**2.1 - x**5.5),
    )
    return jnp.select([z1 < 2.2, z1 < 5.7], [low, middle], high)


def _inoue_continuum_damped(x: Float[Array, " wave"], z1: Float[Array, ""]) -> Float[Array, " wave"]:
    """Lyman continuum of the damped systems, 1 <= x <= z1: Inoue et al. (2014), Eqs. 28-29."""
    low = 0.2113 * z1**2 - 0.07661 * z1**2.3 * x**-0.3 - 0.1347 * x**2
    shared = 0.04696 * z1**3 - 0.01779 * z1**3.3 * x**-0.3
    high = shared + jnp.where(x < 3.0, 0.6340 - 0.1347 * x**2 - 0.2905 * x**-0.3, -0.02916 * x**3)
    return jnp.where(z1 < 3.0, low, high)
