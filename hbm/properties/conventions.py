"""What catalogues of galaxy properties disagree on, and the way to this package's conventions.

Here ``logmass`` is log10 of the stellar mass *formed*, ``logssfr`` log10 of the star formation rate over the
last 100 Myr per mass formed, with the initial mass function of Chabrier (2003); ``logzsol`` is relative to
what the grid of stellar populations of the package calls solar.
"""

from typing import Literal

Imf = Literal["chabrier", "kroupa", "salpeter"]

MASS_TO_CHABRIER = {"chabrier": 0.0, "kroupa": -0.034, "salpeter": -0.215}
"""Dex to add to a mass: log10 of 0.61 and 0.66 (Madau & Dickinson 2014, ARA&A 52, 415, section 3)."""

SFR_TO_CHABRIER = {"chabrier": 0.0, "kroupa": -0.027, "salpeter": -0.201}
"""Dex to add to a star formation rate: log10 of 0.63 and 0.67 (the same)."""

FORMED_OVER_SURVIVING = 0.225
"""Dex to add to a surviving mass, remnants counted, to get the mass formed. In the grid that comes with the
package 0.57 to 0.61 of it survives, 3 to 12 Gyr after a burst or after 10 Gyr of constant star formation."""

FORMED_SCATTER = 0.02
"""Dex: how far that differs between galaxies; added in quadrature to the label's error."""

HUBBLE = 0.6766
"""H0 / (100 km/s/Mpc) of Planck 2018, for catalogues that give masses for H0 = 100."""

HUBBLE_OF_MPA_JHU = 0.70
"""The same of MPA-JHU (Kauffmann et al. 2003). Masses go with its inverse square."""

SOLAR_METALLICITY = 0.01524
"""Mass fraction of metals that ``logzsol`` is relative to: the grid's, of the PARSEC isochrones."""
