"""Dimensional constants, each once, with its source.

FSPS's solar luminosity is used so that spectra mean the same as in python-fsps. Prospector
multiplies by 3.846e33 and DSPS by 3.828e33 erg/s: up to 0.5 % in flux, a constant.
"""

LSUN_CGS = 3.839e33
"""Solar luminosity in erg/s, as in FSPS ``sps_vars.f90``."""

PARSEC_CM = 3.0856775814913673e18
"""Parsec in cm (IAU 2015 B2)."""

LIGHT_AA = 2.99792458e18
"""Speed of light in Angstrom/s (SI, exact)."""

AB_FNU_CGS = 3.631e-20
"""Flux density of one maggie, 3631 Jy, in erg/s/cm^2/Hz (Oke & Gunn 1983)."""

HPLANCK_CGS = 6.62607015e-27
"""Planck constant in erg s (SI, exact)."""

LYMAN_LIMIT_AA = 912.0
"""Wavelength below which FSPS turns starlight into nebular emission, Angstrom."""
