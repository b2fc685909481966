"""Names, symbols, units and descriptions of every quantity that a result can hold.

Tables, netCDF attributes and figures all take their words from here. Units are astropy unit strings; a
base-10 logarithm of a quantity in unit X has unit ``dex(X)``.
"""

import re
from typing import NamedTuple


class Label(NamedTuple):
    """How one quantity is written."""

    symbol: str
    """Matplotlib mathtext, without the unit."""
    unit: str
    """Astropy unit string; empty for a dimensionless quantity."""
    unit_text: str
    """Unit as matplotlib mathtext; empty for a dimensionless quantity."""
    description: str
    """One line in words."""


_MSUN = r"$\mathrm{M}_\odot$"
_SFR = r"$\mathrm{M}_\odot\,\mathrm{yr}^{-1}$"

LABELS: dict[str, Label] = {
    "logmass": Label(r"$\log M_\mathrm{formed}$", "dex(Msun)", _MSUN, "log10 of the stellar mass formed"),
    "logmstar": Label(r"$\log M_\star$", "dex(Msun)", _MSUN, "log10 of the surviving stellar mass"),
    "logssfr": Label(
        r"$\log\,\mathrm{sSFR}_{100}$",
        "dex(1/yr)",
        r"$\mathrm{yr}^{-1}$",
        "log10 of (star formation rate over the last 100 Myr / mass formed)",
    ),
    "sfr_100": Label(
        r"$\mathrm{SFR}_{100}$", "Msun/yr", _SFR, "star formation rate averaged over the last 100 Myr"
    ),
    "sfr_10": Label(
        r"$\mathrm{SFR}_{10}$", "Msun/yr", _SFR, "star formation rate averaged over the last 10 Myr"
    ),
    "logsfr_100": Label(
        r"$\log\,\mathrm{SFR}_{100}$",
        "dex(Msun/yr)",
        _SFR,
        "log10 of the star formation rate averaged over the last 100 Myr",
    ),
    "logsfr_10": Label(
        r"$\log\,\mathrm{SFR}_{10}$",
        "dex(Msun/yr)",
        _SFR,
        "log10 of the star formation rate averaged over the last 10 Myr",
    ),
    "mwa": Label(r"$t_\mathrm{mw}$", "Gyr", "Gyr", "mass-weighted age"),
    "mfrac": Label(r"$f_\mathrm{surv}$", "", "", "surviving over formed stellar mass"),
    "logzsol": Label(
        r"$\log Z_\star$", "dex", r"$\mathrm{Z}_\odot$", "log10 of stellar over solar metallicity"
    ),
    "dust1": Label(r"$\hat{\tau}_1$", "", "", "optical depth at 5500 A of birth clouds"),
    "dust2": Label(r"$\hat{\tau}_2$", "", "", "optical depth at 5500 A of diffuse dust"),
    "dust1_fraction": Label(
        r"$\hat{\tau}_1/\hat{\tau}_2$", "", "", "birth-cloud over diffuse optical depth at 5500 A"
    ),
    "dust_index": Label(r"$\delta$", "", "", "slope of the diffuse attenuation curve relative to Calzetti"),
    "av": Label(r"$A_V$", "mag", "mag", "attenuation of the rest-frame V band by all dust"),
    "gas_logu": Label(r"$\log U$", "dex", "", "log10 of the ionization parameter"),
    "gas_logz": Label(
        r"$\log Z_\mathrm{gas}$", "dex", r"$\mathrm{Z}_\odot$", "log10 of gas over solar metallicity"
    ),
    "zred": Label(r"$z$", "", "", "redshift"),
    "uv": Label(r"$(U-V)_\mathrm{rest}$", "mag", "mag", "rest-frame U - V colour, AB"),
    "vj": Label(r"$(V-J)_\mathrm{rest}$", "mag", "mag", "rest-frame V - J colour, AB"),
    "tau": Label(r"$\tau$", "Gyr", "Gyr", "e-folding time of a delayed exponential history"),
    "logtau": Label(
        r"$\log\tau$", "dex(Gyr)", "Gyr", "log10 of the e-folding time of a delayed exponential history"
    ),
    "tage": Label(r"$t_\mathrm{age}$", "Gyr", "Gyr", "time since star formation began"),
    "tage_fraction": Label(
        r"$t_\mathrm{age}/t_\mathrm{univ}$",
        "",
        "",
        "time since star formation began over the age of the universe",
    ),
    "duste_umin": Label(
        r"$U_\mathrm{min}$", "", "", "minimum radiation field heating the dust (Draine & Li 2007)"
    ),
    "duste_qpah": Label(r"$q_\mathrm{PAH}$", "percent", "%", "mass fraction of dust in PAHs"),
    "duste_gamma": Label(r"$\gamma_e$", "", "", "fraction of dust in intense radiation fields"),
    "logsfr_ratio_recent": Label(
        r"$\log\,\mathrm{SFR}_{0}/\mathrm{SFR}_{1}$",
        "dex",
        "",
        "log10 of (star formation rate over the last 10 Myr / from 10 to 100 Myr ago)",
    ),
    "logsfr_ratios": Label(
        r"$\log\,\mathrm{SFR}_{i+2}/\mathrm{SFR}_{i+3}$",
        "dex",
        "",
        "log10 ratio of the star formation rates of adjacent age bins older than 100 Myr",
    ),
    "sfr_bins": Label("SFR", "Msun/yr", _SFR, "star formation rate in each age bin"),
    "error_floor": Label(r"$f_\mathrm{floor}$", "", "", "model error as a fraction of the model flux"),
    "outlier_fraction": Label(r"$f_\mathrm{out}$", "", "", "fraction of bands that are outliers"),
    "zero_point": Label(r"$\Delta m$", "mag", "mag", "zero point: catalogue minus true magnitude"),
    "mass_bins": Label(r"$M_\mathrm{bin}$", "Msun", _MSUN, "stellar mass formed in each age bin"),
}
"""Known quantities by name; vectors share one entry."""

N_RECENT_BIN = 2
"""Age bins younger than 100 Myr, before the first that `logsfr_ratios` compares."""

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "logsfr_ratios": ("ratio",),
    "sfr_bins": ("bin",),
    "mass_bins": ("bin",),
    "zero_point": ("band",),
}
"""Axis names of the known vectors, after (chain, draw)."""

_COMPONENT = re.compile(r"^(?P<name>.+?)\[(?P<index>\d+(,\d+)*)\]$")


def split_component(name: str) -> tuple[str, tuple[int, ...]]:
    """Split ``"logsfr_ratios[2]"`` into the variable's name and the index, ``("logsfr_ratios", (2,))``."""
    match = _COMPONENT.match(name)
    if match is None:
        return name, ()
    return match["name"], tuple(int(i) for i in match["index"].split(","))


def label_of(name: str) -> Label:
    """Label of a variable or of one component of a vector; an unknown name stands for itself.

    Component i of ``logsfr_ratios`` compares the bins i + 2 and i + 3 of ``sfr_bins``, counted from 0.
    """
    base, index = split_component(name)
    known = LABELS.get(base, Label(base, "", "", base))
    if not index:
        return known
    text = ",".join(str(i) for i in index)
    if base == "logsfr_ratios":
        younger = index[0] + N_RECENT_BIN
        return known._replace(
            symbol=rf"$\log\,\mathrm{{SFR}}_{{{younger}}}/\mathrm{{SFR}}_{{{younger + 1}}}$",
            description=f"log10 ratio of the star formation rates of `sfr_bins` {younger} and {younger + 1}",
        )
    return known._replace(
        symbol=f"{known.symbol} [{text}]", description=f"{known.description}, component {text}"
    )


def axis_label(name: str) -> str:
    """Symbol and unit for an axis, such as ``log M [Msun]``; logarithms carry the unit inside."""
    label = label_of(name)
    if not label.unit_text:
        return label.symbol
    return f"{label.symbol} [{label.unit_text}]"
