"""Flux units: everything here is in maggies, catalogues come in many others.

One maggie is the flux density of AB magnitude 0, 3631 Jy (`sed.constants.AB_FNU_CGS`), so

    maggies = 10**(-0.4 m_AB) = f / 3631 Jy = 1e-9 nanomaggies = 10**(-0.4 zp) f_zp

where ``f_zp`` is a flux whose AB zero point is ``zp``: 3D-HST has 25, nanomaggies are 22.5.
astropy's ``ABmag`` has its zero at 48.6, that is 3630.78 Jy: 6e-5 from the 3631 Jy used here, far
below any photometric error.

A unit is one of `FLUX_UNITS`, or ``"zp=25"`` with any number.
"""

import difflib
import math
from typing import Literal

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Real

from sed.constants import AB_FNU_CGS

AB_ZERO_JY = 1e23 * AB_FNU_CGS
"""Flux density of one maggie in Jy."""

MAGNITUDE_UNIT = "ABmag"
"""The one unit that is not proportional to flux."""

_LINEAR = {
    "maggies": 1.0,
    "nanomaggies": 1e-9,
    "nJy": 1e-9 / AB_ZERO_JY,
    "uJy": 1e-6 / AB_ZERO_JY,
    "mJy": 1e-3 / AB_ZERO_JY,
    "Jy": 1.0 / AB_ZERO_JY,
}

FLUX_UNITS: tuple[str, ...] = (*_LINEAR, MAGNITUDE_UNIT)
"""Names of the units; ``"zp=<number>"`` is accepted beside them."""

MagnitudeError = Literal["first order", "mean"]
"""How an error in magnitudes becomes one in flux; see `magnitude_to_maggies`."""

_SENTINEL_MAGNITUDE = 90.0
"""Magnitudes (and their errors) of at least this absolute value are codes such as 99, -99, 99.99."""


def unit_scale(unit: str) -> float:
    """Maggies per unit, for units proportional to flux.

    Parameters
    ----------
    unit
        One of `FLUX_UNITS` but ``"ABmag"``, or ``"zp=<AB zero point>"``.

    Raises
    ------
    ValueError
        For an unknown unit, a zero point that is no finite number, or ``"ABmag"``.
    """
    if unit in _LINEAR:
        return _LINEAR[unit]
    if unit == MAGNITUDE_UNIT:
        raise ValueError("`unit` must be proportional to flux, got 'ABmag'. Use `magnitude_to_maggies`.")
    name, equals, number = unit.partition("=")
    if equals and name.strip() == "zp":
        try:
            zero_point = float(number)
        except ValueError:
            zero_point = math.nan
        if not math.isfinite(zero_point):
            raise ValueError(
                f"`unit` must give the AB zero point as a number, got {unit!r}. Write it as 'zp=25'."
            )
        return float(10.0 ** (-0.4 * zero_point))
    folded = {known.lower(): known for known in FLUX_UNITS}
    close = difflib.get_close_matches(unit.lower(), folded, n=1)
    hint = f" Did you mean {folded[close[0]]!r}?" if close else ""
    raise ValueError(
        f"`unit` must be one of {', '.join(FLUX_UNITS)} or 'zp=<AB zero point>', got {unit!r}.{hint}"
    )


def check_unit(unit: str) -> None:
    """Raise ValueError, saying which units there are, unless `unit` is one of them."""
    if unit != MAGNITUDE_UNIT:
        unit_scale(unit)


def to_maggies(value: Real[ArrayLike, "*shape"], unit: str) -> Float[np.ndarray, "*shape"]:
    """Flux in maggies, in double precision.

    Parameters
    ----------
    value : `unit`
        Flux, or AB magnitude if `unit` is ``"ABmag"``. NaN stays NaN.
    unit
        One of `FLUX_UNITS` or ``"zp=<AB zero point>"``.

    Returns
    -------
    maggies
        For magnitudes, NaN where the magnitude is a code for "missing" (99, -99: see
        `magnitude_to_maggies`).

    Raises
    ------
    ValueError
        If the unit is unknown.
    """
    array = np.asarray(value, dtype=np.float64)
    if unit == MAGNITUDE_UNIT:
        return np.asarray(10.0 ** (-0.4 * _without_sentinels(array)))
    return np.asarray(array * unit_scale(unit))


def from_maggies(flux: Real[ArrayLike, "*shape"], unit: str) -> Float[np.ndarray, "*shape"]:
    """Inverse of `to_maggies`.

    Parameters
    ----------
    flux : maggies
    unit
        One of `FLUX_UNITS` or ``"zp=<AB zero point>"``.

    Returns
    -------
    `unit`
        For ``"ABmag"``, NaN where the flux is not positive.

    Raises
    ------
    ValueError
        If the unit is unknown.
    """
    array = np.asarray(flux, dtype=np.float64)
    if unit == MAGNITUDE_UNIT:
        return np.asarray(-2.5 * np.log10(np.where(array > 0, array, np.nan)))
    return np.asarray(array / unit_scale(unit))


def flux_err_to_maggies(flux_err: Real[ArrayLike, "*shape"], unit: str) -> Float[np.ndarray, "*shape"]:
    """One standard deviation of a flux, in maggies.

    Parameters
    ----------
    flux_err : `unit`
        NaN stays NaN and a sign stays: the catalogue reader judges them, not this.
    unit
        A unit proportional to flux. An error in magnitudes needs the magnitude: `magnitude_to_maggies`.

    Raises
    ------
    ValueError
        If the unit is unknown, or ``"ABmag"``.
    """
    return np.asarray(np.asarray(flux_err, dtype=np.float64) * unit_scale(unit))


def magnitude_to_maggies(
    mag: Real[ArrayLike, "*shape"],
    mag_err: Real[ArrayLike, "*shape"],
    *,
    method: MagnitudeError = "first order",
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    r"""Flux and its error from an AB magnitude and its error.

    With :math:`f = 10^{-0.4 m}` and :math:`a = 0.4 \ln(10)\, \sigma_m`, an error symmetric in magnitude is
    not symmetric in flux: :math:`f` goes up by :math:`f(e^a - 1)` and down by :math:`f(1 - e^{-a})`.

    - ``"first order"``: :math:`\sigma_f = f a`. This is what surveys inverted when they turned
      fluxes into magnitudes (:math:`\sigma_m = 1.0857\,\sigma_f/f`), so it gives their flux error back
      exactly, at any signal to noise. The default.
    - ``"mean"``: half the distance between the two sides, :math:`\sigma_f = f \sinh a`, for an
      interval that was found in magnitudes. It is larger: by 0.1 % at 0.1 mag, 4 % at 0.5 mag, 15 % at 1 mag.

    Beyond about 0.3 mag neither makes a Gaussian in flux of what was one in magnitude. Use measured
    fluxes where they exist: a magnitude cannot even state a negative one.

    Parameters
    ----------
    mag, mag_err : AB magnitude
        Absolute values of 90 or more (99, -99, 99.99...) are codes for "no measurement".
    method
        See above.

    Returns
    -------
    maggies
        Flux and error: both NaN where `mag` is NaN or a code; the error NaN where `mag_err` is.

    Raises
    ------
    ValueError
        If an error is negative without being a code, or `method` is unknown.
    """
    flux = to_maggies(mag, MAGNITUDE_UNIT)
    width = _without_sentinels(np.asarray(mag_err, dtype=np.float64))
    if np.any(width < 0):
        raise ValueError(
            f"`mag_err` must be >= 0 magnitudes, or a code such as -99, got {np.nanmin(width):g}. "
            "Some surveys write limits as negative errors: mark these as limits instead."
        )
    exponent = 0.4 * math.log(10.0) * width
    if method == "first order":
        return flux, np.asarray(flux * exponent)
    if method == "mean":
        return flux, np.asarray(flux * np.sinh(exponent))
    raise ValueError(f"`method` must be 'first order' or 'mean', got {method!r}.")


def _without_sentinels(mag: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """NaN in place of magnitudes that are codes."""
    return np.where(np.abs(mag) >= _SENTINEL_MAGNITUDE, np.nan, mag)
