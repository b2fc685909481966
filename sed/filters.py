"""Filter curves: from sedpy, from the SVO Filter Profile Service, from two columns of text.

A curve is *detector signal per photon* (the convention of sedpy and kcorrect), so the AB flux of a
spectrum in maggies is

    f = int f_lambda lambda T dlambda / int f_lambda,AB lambda T dlambda

Curves made for energy-counting detectors (signal ``int f_lambda T dlambda``) become per photon
when divided by wavelength. Wavelengths are observed frame, Angstrom, increasing.
"""

import difflib
import functools
import importlib.resources
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

_FILE_SUFFIXES = (".xml", ".vot", ".votable", ".dat", ".txt", ".csv", ".par", ".res", ".ascii")
_SHORTEST_AA = 1000.0
_LONGEST_AA = 1e8
_OTHER_UNIT = re.compile(r"\b(nm|nanomet\w*|microns?|micromet\w*|um)\b|[µμ]m", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Filter:
    """One transmission curve.

    Raises
    ------
    ValueError
        If the curve has under three points, values that are not finite, wavelengths that do not
        increase or are not positive, a negative transmission, or no transmission at all.
    """

    name: str
    """What `load_filters` was given: sedpy's name, or the path of a file."""
    wave: Float[np.ndarray, " wave"]
    """Observed-frame wavelength, Angstrom, strictly increasing."""
    transmission: Float[np.ndarray, " wave"]
    """Detector signal per photon; its normalisation does not matter."""

    def __post_init__(self) -> None:
        wave, transmission = self.wave, self.transmission
        where = f"filter {self.name!r}"
        if wave.ndim != 1 or wave.shape != transmission.shape or wave.size < 3:
            raise ValueError(
                f"`wave` and `transmission` of {where} must be two columns of at least 3 points, "
                f"got shapes {wave.shape} and {transmission.shape}."
            )
        if not (np.isfinite(wave).all() and np.isfinite(transmission).all()):
            raise ValueError(
                f"`wave` and `transmission` of {where} must be finite. Remove the rows with NaN."
            )
        if wave[0] <= 0 or np.any(np.diff(wave) <= 0):
            first = int(np.argmax(np.diff(wave, prepend=0.0) <= 0))
            raise ValueError(
                f"`wave` of {where} must be positive and increase strictly, got {wave[first]:g} A at "
                f"point {first}. Sort the curve and drop repeated wavelengths."
            )
        if transmission.min() < 0:
            raise ValueError(
                f"`transmission` of {where} must be >= 0, got {transmission.min():g}. Set negative values, "
                "which are noise of the measurement, to zero."
            )
        if transmission.max() == 0:
            raise ValueError(f"`transmission` of {where} is zero everywhere. Check which column was read.")

    def __eq__(self, other: object) -> bool:
        """Equal name and curve."""
        if not isinstance(other, Filter):
            return NotImplemented
        return (
            self.name == other.name
            and np.array_equal(self.wave, other.wave)
            and np.array_equal(self.transmission, other.transmission)
        )

    def __hash__(self) -> int:
        """Hash of name and curve."""
        return hash((self.name, self.wave.tobytes(), self.transmission.tobytes()))

    @property
    def wave_pivot(self) -> float:
        r"""Pivot wavelength, :math:`\sqrt{\int T\lambda\,d\lambda / \int T\,d\ln\lambda}`, Angstrom."""
        numerator = np.trapezoid(self.transmission * self.wave, self.wave)
        return float(np.sqrt(numerator / np.trapezoid(self.transmission, np.log(self.wave))))

    @property
    def wave_effective(self) -> float:
        r"""Effective wavelength :math:`\exp\langle\ln\lambda\rangle` by :math:`T\,d\ln\lambda` (Angstrom)."""
        log_wave = np.log(self.wave)
        moment = np.trapezoid(self.transmission * log_wave, log_wave)
        return float(np.exp(moment / np.trapezoid(self.transmission, log_wave)))

    @property
    def wave_min(self) -> float:
        """Wavelength below which nothing is transmitted, Angstrom."""
        return float(self.wave[max(np.flatnonzero(self.transmission)[0] - 1, 0)])

    @property
    def wave_max(self) -> float:
        """Wavelength above which nothing is transmitted, Angstrom."""
        return float(self.wave[min(np.flatnonzero(self.transmission)[-1] + 1, self.wave.size - 1)])


@dataclass(frozen=True)
class FilterSet:
    """Filters in the order of the bands of a catalogue.

    Raises
    ------
    ValueError
        If there is none, or two have one name.
    """

    filters: tuple[Filter, ...]
    """The curves."""

    def __post_init__(self) -> None:
        if not self.filters:
            raise ValueError("`filters` must hold at least one filter, got none.")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"`filters` must have different names, got {', '.join(repeated)} more than once."
            )

    def __len__(self) -> int:
        """Return the number of bands."""
        return len(self.filters)

    @property
    def names(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(filt.name for filt in self.filters)

    @property
    def wave_pivot(self) -> Float[np.ndarray, " band"]:
        """Pivot wavelengths, Angstrom."""
        return np.array([filt.wave_pivot for filt in self.filters])

    def index(self, name: str) -> int:
        """Position of a filter; ValueError, with close names, if it is not here."""
        if name not in self.names:
            raise ValueError(
                f"`name` must be a filter of this set, got {name!r}.{_suggest(name, self.names)}"
            )
        return self.names.index(name)


@functools.cache
def available_filters() -> tuple[str, ...]:
    """Names of the filters that come with sedpy, sorted."""
    folder = importlib.resources.files("sedpy") / "data" / "filters"
    return tuple(sorted(p.name[:-4] for p in folder.iterdir() if p.name.endswith(".par")))


def check_filter(spec: str | Path) -> None:
    """Raise, as `load_filters` would, if there is no such filter; its curve is not read."""
    if _is_path(spec):
        if not Path(spec).is_file():
            raise FileNotFoundError(f"`specs` names the filter file {str(spec)!r}, which does not exist.")
    elif spec not in available_filters():
        raise ValueError(
            f"`specs` must hold names of sedpy filters or paths of curves, got {spec!r}."
            f"{_suggest(str(spec), available_filters())} `sed.filters.available_filters()` lists them."
        )


def load_filters(specs: Iterable[str | Path]) -> FilterSet:
    """Read filter curves.

    Parameters
    ----------
    specs
        For each band one of: a name that sedpy knows (``"sdss_u0"``); a VOTable from the SVO Filter
        Profile Service (``"SLOAN_SDSS.u.xml"``), per photon or per energy as its ``DetectorType``
        says; two columns of text or CSV, wavelength in Angstrom and signal per photon. A filter's
        name is what was given here, so that ``load_filters(filters.names)`` is the same set.

    Raises
    ------
    ValueError
        For an unknown name (with close ones), a file that cannot be read as a curve, or
        wavelengths that are not in Angstrom. Nanometres above 1000 that no header declares pass
        for Angstrom: look at `FilterSet.wave_pivot`.
    FileNotFoundError
        If a path leads nowhere.
    TypeError
        If `specs` is one string.
    """
    if isinstance(specs, str):
        raise TypeError(f"`specs` must be a list of filters, got the string {specs!r}. Write [{specs!r}].")
    return FilterSet(tuple(_load_filter(spec) for spec in specs))


def _load_filter(spec: str | Path) -> Filter:
    check_filter(spec)
    if not _is_path(spec):
        from sedpy.observate import Filter as SedpyFilter  # reads spectra of Vega and the Sun when imported

        curve = SedpyFilter(str(spec))
        return Filter(str(spec), np.asarray(curve.wavelength, float), np.asarray(curve.transmission, float))
    path = Path(spec)
    is_votable = path.suffix.lower() in (".xml", ".vot", ".votable")
    wave, transmission = _read_votable(path) if is_votable else _read_text(path)
    middle = float(np.median(wave)) if wave.size else np.nan
    if middle < _SHORTEST_AA or middle > _LONGEST_AA:
        unit = "Hz" if middle > _LONGEST_AA else "micron" if middle < 50 else "nm"
        raise ValueError(
            f"Wavelengths in filter file {str(spec)!r} must be in Angstrom; their median is {middle:g}, "
            f"which looks like {unit}. Convert them first."
        )
    return Filter(str(spec), wave, transmission)


def _read_votable(path: Path) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """Curve of an SVO VOTable (SVO: DetectorType 0 counts energy, 1 counts photons)."""
    import astropy.units as u
    from astropy.io.votable import parse

    try:
        votable = parse(str(path))
        table = votable.get_first_table()
    except (OSError, ValueError, IndexError) as error:
        raise ValueError(f"Filter file {str(path)!r} could not be read as a VOTable: {error}") from error
    fields = {field.name.lower(): field for field in table.fields}
    if not {"wavelength", "transmission"} <= set(fields):
        raise ValueError(
            f"Filter file {str(path)!r} must have the fields Wavelength and Transmission, as SVO "
            f"writes them, got {', '.join(field.name for field in table.fields)}."
        )
    unit = u.Unit(str(fields["wavelength"].unit or "Angstrom"))
    wave, transmission = (
        np.ma.filled(table.array[fields[key].ID].astype(float), np.nan)
        for key in ("wavelength", "transmission")
    )
    wave = wave * unit.to(u.AA)
    detector = [str(p.value).strip() for p in votable.iter_fields_and_params() if p.name == "DetectorType"]
    if detector == ["0"]:
        return wave, transmission / wave
    if detector == ["1"]:
        return wave, transmission
    raise ValueError(
        f"Filter file {str(path)!r} must say once in its parameter DetectorType whether the curve is per "
        f"energy (0) or per photon (1), got {detector or 'no such parameter'}. Save it anew from SVO, "
        "or as two columns of text with the signal per photon."
    )


def _read_text(path: Path) -> tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]:
    """First two columns of a text file."""
    text = path.read_text(encoding="utf-8", errors="replace")
    header = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    other = next((match.group(0) for line in header if (match := _OTHER_UNIT.search(line))), None)
    if other:
        raise ValueError(
            f"Wavelengths in filter file {str(path)!r} must be in Angstrom; its header says {other!r}. "
            "Convert them, and the header, first."
        )
    try:
        if not any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines()):
            raise ValueError("there is nothing in it")
        columns = np.loadtxt(text.replace(",", " ").splitlines(), usecols=(0, 1), ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"Filter file {str(path)!r} must hold two columns of numbers, wavelength in Angstrom and "
            f"transmission, and comments after '#': {error}"
        ) from error
    return columns[:, 0], columns[:, 1]


def _is_path(spec: str | Path) -> bool:
    """Whether a filter is given by file: sedpy's names have neither separators nor suffixes."""
    return isinstance(spec, Path) or "/" in spec or "\\" in spec or spec.lower().endswith(_FILE_SUFFIXES)


def _suggest(name: str, known: Iterable[str]) -> str:
    """Close names as a sentence, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(close)}?" if close else ""
