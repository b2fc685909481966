"""Make a grid of simple stellar populations by running the user's own FSPS.

Every number comes out of python-fsps itself; of the data folder only the positions of the nodes of
the nebular table are read, because python-fsps does not tell them.
"""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sed.constants import LYMAN_LIMIT_AA
from sed.ssp import DustEmissionTable, NebularTable, SSPGrid, ionizing_photons

QPAH_NODES = (0.47, 1.12, 1.77, 2.50, 3.19, 3.90, 4.58)
"""PAH mass in percent of the Draine & Li (2007) models (FSPS ``sps_vars.f90``, ``qpaharr``)."""

UMIN_NODES = (
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.8, 1.0, 1.2, 1.5),
    *(2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 8.0, 12.0, 15.0, 20.0, 25.0),
)
"""Radiation fields of the Draine & Li (2007) models (FSPS ``sps_vars.f90``, ``uminarr``)."""

DUST_WAVE_MIN_AA = 9000.0
"""Templates of dust emission are zero blueward of this, Angstrom: there they are rounding noise."""

_LIGHT_KMS = 299792.458


def build_grid(
    *,
    imf_type: int = 1,
    nebular: bool = True,
    dust_emission: bool = True,
    notes: tuple[str, ...] = (),
    report: Callable[[str], None] = lambda _message: None,
    **fsps_params: object,
) -> SSPGrid:
    """Run FSPS over its metallicities and ages.

    Parameters
    ----------
    imf_type
        Initial mass function as FSPS numbers it (1 = Chabrier 2003).
    nebular, dust_emission
        Whether to tabulate nebular emission and dust emission.
    notes
        Sentences for the provenance, e.g. what the data folder could not give.
    report
        Called with one line of text before each step.
    **fsps_params
        Further settings of `fsps.StellarPopulation`, kept in the provenance.

    Returns
    -------
    SSPGrid
        In FSPS's own sampling, single precision.

    Raises
    ------
    ImportError
        If python-fsps is not installed.
    FileNotFoundError
        If ``SPS_HOME`` is unset or not a folder.
    """
    population = _population(imf_type, fsps_params)
    n_met = len(population.zlegend)
    wave = np.array(population.wavelengths, dtype=np.float64)
    logzsol = np.log10(np.array(population.zlegend) / population.solar_metallicity)
    spectra, masses = [], []
    for zmet in range(1, n_met + 1):
        report(f"stars: metallicity {zmet} of {n_met}")
        spectra.append(population.get_spectrum(zmet=zmet, tage=0, peraa=False)[1])
        masses.append(np.array(population.stellar_mass))
    flux = np.array(spectra)
    solar = int(np.argmin(np.abs(logzsol)))
    neb = _nebular(population, wave, flux[solar], solar + 1, report) if nebular else None
    dust = _dust_emission(population, wave, report) if dust_emission else None
    provenance = {
        "made_by": "hbm grid build",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python_fsps": importlib.metadata.version("fsps"),
        "isochrones, spectra, dust": [
            part.decode() if isinstance(part, bytes) else str(part) for part in population.libraries
        ],
        "imf_type": imf_type,
        "fsps_params": {key: str(value) for key, value in fsps_params.items()},
        "solar_metallicity": float(population.solar_metallicity),
        "nebular_lines": neb is not None,
        "nebular_continuum": neb is not None and neb.continuum is not None,
        "dust_emission": dust is not None,
        "notes": list(notes),
        "flux_sha256": hashlib.sha256(flux.astype(np.float32).tobytes()).hexdigest(),
    }
    return SSPGrid(
        wave=wave,
        log_age=np.array(population.ssp_ages, dtype=np.float64),
        logzsol=logzsol,
        flux=flux.astype(np.float32),
        mstar=np.array(masses),
        nebular=neb,
        dust_emission=dust,
        provenance_json=json.dumps(provenance),
    )


def _population(imf_type: int, fsps_params: dict[str, object]) -> Any:
    """One `fsps.StellarPopulation` on discrete metallicities with everything but the stars off."""
    home = os.environ.get("SPS_HOME", "")
    if not Path(home).is_dir() or not home:
        raise FileNotFoundError(
            f"`SPS_HOME` must name the folder of the FSPS data, got {home!r}. Clone FSPS and set it, see "
            "https://dfm.io/python-fsps."
        )
    try:
        import fsps
    except ImportError as error:
        raise ImportError('python-fsps is needed to build a grid: pip install "galaxy-hbm[fsps]".') from error
    return fsps.StellarPopulation(
        zcontinuous=0,
        sfh=0,
        imf_type=imf_type,
        add_neb_emission=False,
        add_dust_emission=False,
        dust1=0.0,
        dust2=0.0,
        **fsps_params,
    )


def _nebular(
    population: Any,
    wave: Float[np.ndarray, " wave"],
    stars: Float[np.ndarray, "age wave"],
    zmet: int,
    report: Callable[[str], None],
) -> NebularTable:
    """Line (and continuum) luminosities per ionizing photon on FSPS's own nodes."""
    gas_logz, gas_logu = _nebular_nodes(population)
    n_ion = int(np.searchsorted(wave, LYMAN_LIMIT_AA, side="right"))
    photons = ionizing_photons(wave[:n_ion], stars[:, :n_ion])
    population.params["zmet"] = zmet
    population.params["add_neb_emission"] = True
    population.params["nebemlineinspec"] = False
    has_continuum = False
    lines, continua = [], []
    tiny = 1e-80
    for logz in gas_logz:
        report(f"nebular emission: gas metallicity {logz:+.2f}")
        for logu in gas_logu:
            population.params["gas_logz"], population.params["gas_logu"] = float(logz), float(logu)
            population.params["add_neb_continuum"] = False
            base = population.get_spectrum(tage=0, peraa=False)[1]
            luminosity = np.array(population.emline_luminosity)
            summed = luminosity.sum(axis=1)  # FSPS leaves 1e-70 where no gas is ionized
            n_age = int(np.max(np.nonzero(summed > 1e-20 * np.max(summed))[0])) + 1
            lines.append(np.log10(luminosity[:n_age] / photons[:n_age, None] + tiny))
            population.params["add_neb_continuum"] = True
            extra = population.get_spectrum(tage=0, peraa=False)[1][:n_age] - base[:n_age]
            has_continuum = has_continuum or bool(np.max(extra) > 1e-6 * np.max(base[:n_age]))
            continua.append(
                np.log10(np.maximum(extra, 0.0) / photons[:n_age, None] + tiny).astype(np.float32)
            )
    population.params["add_neb_emission"] = False
    shape = (len(gas_logz), len(gas_logu), n_age, -1)
    positions = np.array(population.emline_wavelengths, dtype=np.float64)
    order = np.argsort(positions, kind="stable")
    return NebularTable(
        gas_logz=gas_logz,
        gas_logu=gas_logu,
        line_wave=positions[order],
        line_sigma=_line_sigma(population, wave, positions[order]),
        line_loglum=np.array(lines).reshape(shape)[..., order].astype(np.float32),
        line_name=tuple(np.array(_line_names(len(positions)))[order].tolist()),
        continuum=np.array(continua).reshape(shape) if has_continuum else None,
    )


def _line_sigma(
    population: Any, wave: Float[np.ndarray, " wave"], line_wave: Float[np.ndarray, " line"]
) -> Float[np.ndarray, " line"]:
    """Width of a line in FSPS's spectrum: two pixels FWHM or the library's resolution (``sps_setup.f90``)."""
    left = np.clip(np.searchsorted(wave, line_wave, side="right") - 1, 0, len(wave) - 2)
    pixel = (wave[left + 1] - wave[left]) * 2 / 2.355
    resolution = np.abs(np.array(population.resolutions, dtype=np.float64))[left]
    return np.asarray(np.maximum(pixel, line_wave * resolution / _LIGHT_KMS))


def _nebular_nodes(population: Any) -> tuple[Float[np.ndarray, " gasmet"], Float[np.ndarray, " logu"]]:
    """Nodes of the Cloudy table, from its file: a header, wavelengths, then pairs of node and values."""
    library = population.libraries[0]
    name = library.decode() if isinstance(library, bytes) else str(library)
    path = Path(os.environ["SPS_HOME"]) / "nebular" / f"ZAU_ND_{name.strip()}.lines"
    with path.open() as handle:
        rows = handle.read().splitlines()[2::2]
    nodes = np.array([[float(word) for word in row.split()] for row in rows if row.strip()])
    return np.unique(nodes[:, 0]), np.unique(nodes[:, 2])


def _line_names(n_line: int) -> list[str]:
    """Names from FSPS's ``emlines_info.dat``."""
    path = Path(os.environ["SPS_HOME"]) / "data" / "emlines_info.dat"
    names = [row.split(",", 1)[1].strip() for row in path.read_text().splitlines() if "," in row]
    if len(names) != n_line:
        raise ValueError(f"{path.name} must name {n_line} lines, got {len(names)}.")
    return names


def _dust_emission(
    population: Any, wave: Float[np.ndarray, " wave"], report: Callable[[str], None]
) -> DustEmissionTable | None:
    """Templates as the light that dust emission adds, with birth-cloud dust only: no self-absorption.

    FSPS scales a template to the energy absorbed and reports the dust mass that this takes, so the
    light added over the dust mass is the template in its own units, and templates may be mixed.
    """
    library = population.libraries[2]
    if "DL07" not in (library.decode() if isinstance(library, bytes) else str(library)):
        report("dust emission: this FSPS was not built for Draine & Li (2007); left out")
        return None
    population.params["dust1"] = 5.0
    base = population.get_spectrum(tage=0.003, peraa=False)[1]
    population.params["add_dust_emission"] = True
    shape = np.zeros((len(QPAH_NODES), len(UMIN_NODES), 2, len(wave)))
    for i, qpah in enumerate(QPAH_NODES):
        report(f"dust emission: {qpah:.2f} % PAHs")
        for j, umin in enumerate(UMIN_NODES):
            for k, gamma in enumerate((0.0, 1.0)):
                population.params["duste_qpah"] = qpah
                population.params["duste_umin"] = umin
                population.params["duste_gamma"] = gamma
                extra = population.get_spectrum(tage=0.003, peraa=False)[1] - base
                shape[i, j, k] = np.maximum(extra, 0.0) / population.dust_mass
    population.params["dust1"] = 0.0
    population.params["add_dust_emission"] = False
    shape[..., wave < DUST_WAVE_MIN_AA] = 0.0
    shape /= np.max(shape)
    return DustEmissionTable(
        qpah=np.array(QPAH_NODES), umin=np.array(UMIN_NODES), shape=shape.astype(np.float32)
    )
