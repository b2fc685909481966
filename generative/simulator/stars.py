r"""Band fluxes of stellar populations in torch, from the tensors that `sed.compile` makes.

The same sums as `sed.compiled.CompiledPhotometry.flux` without dust emission, for many galaxies of several
populations each, at a fixed list of redshifts. Light is linear in mass: the fluxes of populations that share
metallicity, dust and gas add up to that of the galaxy.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from generative.instrument import Instrument

N_REDSHIFT = 24
"""Redshifts that training uses: the simulator draws one of these."""

_LN10 = float(np.log(10.0))


class Curve(NamedTuple):
    """Attenuation curve of Kriek & Conroy (2013) with no change of slope, and that of the birth clouds."""

    diffuse: Tensor
    """tau / tau(5500 A)."""
    cloud: Tensor
    """(lambda / 5500 A)^-1 (Charlot & Fall 2000)."""


class BandTables(NamedTuple):
    """Tensors of the photometry of an instrument's bands at several redshifts."""

    zred: Float[Tensor, " z"]
    """Redshifts."""
    tmax: Float[Tensor, " z"]
    """Age of the oldest stars, Gyr."""
    agebins: Float[Tensor, "z bin 2"]
    """Edges of the age bins, log10 yr."""
    logzsol: Float[Tensor, " met"]
    """log10 solar."""
    stars: Float[Tensor, "z met comp node"]
    """Maggies per Msun formed at the nodes of the bands."""
    curve: Curve
    """At the nodes: (z, node)."""
    band_of_node: Float[Tensor, "node band"]
    """1 where a node belongs to a band."""
    split: Float[Tensor, "bin comp"]
    """Part of each bin's mass in each component."""
    young: Float[Tensor, " comp"]
    """1 in birth clouds, else 0."""
    line_logz: Float[Tensor, " linez"]
    line_logu: Float[Tensor, " lineu"]
    line_loglum: Float[Tensor, "linez lineu linecomp line"]
    """log10 Lsun per Msun formed."""
    line_curve: Curve
    """At the lines."""
    line_weight: Float[Tensor, "z band line"]
    """Maggies per Lsun."""

    def to(self, device: torch.device | str) -> "BandTables":
        """Move to a device."""
        moved: dict[str, Any] = {
            name: Curve(*(part.to(device) for part in item)) if isinstance(item, Curve) else item.to(device)
            for name, item in self._asdict().items()
        }
        return BandTables(**moved)


def band_tables(instrument: Instrument, zred: Sequence[float] | None = None) -> BandTables:
    """Compile the photometry of an instrument's bands with the shipped grid. Loads JAX; takes some seconds.

    Parameters
    ----------
    instrument
        Bands and range of redshifts.
    zred
        Redshifts; `N_REDSHIFT` over the instrument's range if None.
    """
    from sed.compile import PhotometryCompiler
    from sed.filters import load_filters
    from sed.io import load_grid

    if zred is None:
        zred = np.linspace(*instrument.zred, N_REDSHIFT).tolist()
    compiler = PhotometryCompiler(
        load_grid(), load_filters(instrument.bands), igm=None, dust_emission=False, dtype=np.float64
    )
    parts = [compiler(float(z)) for z in zred]
    first = parts[0]
    n_node = sum(first.n_nodes)
    lines = first.lines
    if lines is None:
        raise ValueError("the default grid must have nebular lines; rebuild it with `hbm grid build`.")

    def tensor(value: object) -> Tensor:
        return torch.tensor(np.asarray(value), dtype=torch.float64)

    def together(name: str) -> Tensor:
        return torch.stack([tensor(getattr(part, name)) for part in parts])

    def curve(prepared: object) -> Curve:
        diffuse = np.asarray(prepared(0.0))  # type: ignore[operator]
        return Curve(tensor(diffuse), torch.exp(-tensor(prepared.log_ratio)))  # type: ignore[attr-defined]

    at_nodes = [curve(part.curve) for part in parts]
    edges = together("agebins")
    return BandTables(
        zred=tensor(list(zred)),
        tmax=10 ** (edges[:, -1, 1] - 9),
        agebins=edges,
        logzsol=tensor(first.logzsol),
        stars=together("stars")[..., :n_node],
        curve=Curve(*(torch.stack(items)[:, :n_node] for items in zip(*at_nodes, strict=True))),
        band_of_node=tensor(np.repeat(np.eye(len(first.n_nodes)), first.n_nodes, axis=0)),
        split=tensor(first.bin_split),
        young=tensor(first.comp_young),
        line_logz=tensor(lines.logz),
        line_logu=tensor(lines.logu),
        line_loglum=tensor(lines.loglum),
        line_curve=curve(lines.curve),
        line_weight=together("line_weight"),
    )


class Population(NamedTuple):
    """Stars that share metallicity, dust and gas; the leading axes are the batch's."""

    mass: Float[Tensor, "*batch bin"]
    """Msun formed in each age bin."""
    logzsol: Float[Tensor, "*batch"]
    dust2: Float[Tensor, "*batch"]
    dust1: Float[Tensor, "*batch"]
    gas_logu: Float[Tensor, "*batch"]


def _bracket(nodes: Float[Tensor, " node"], value: Float[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Tensor]:
    low = (torch.searchsorted(nodes, value.contiguous(), right=True) - 1).clamp(0, len(nodes) - 2)
    fraction = (value - nodes[low]) / (nodes[low + 1] - nodes[low])
    return low, fraction.clamp(0.0, 1.0)


def band_flux(
    tables: BandTables, z_index: Int[Tensor, "*batch"], stars: Population
) -> Float[Tensor, "*batch band"]:
    """Flux in maggies in each band.

    Parameters
    ----------
    tables
        Compiled photometry.
    z_index
        Which of the tables' redshifts.
    stars
        Populations, in the tables' precision (double).
    """
    shape = z_index.shape
    z = z_index.reshape(-1)
    mass = stars.mass.reshape(len(z), -1) @ tables.split  # n, comp
    logzsol, dust2, dust1, gas_logu = (value.reshape(-1) for value in stars[1:])
    low, dz = _bracket(tables.logzsol, logzsol)
    dz_ = dz[:, None, None]
    ssp = (1 - dz_) * tables.stars[z, low] + dz_ * tables.stars[z, low + 1]
    young = torch.einsum("nc,nco->no", mass * tables.young, ssp)
    old = torch.einsum("nc,nco->no", mass * (1 - tables.young), ssp)
    passed = young * torch.exp(-dust1[:, None] * tables.curve.cloud[z]) + old
    passed = passed * torch.exp(-dust2[:, None] * tables.curve.diffuse[z])
    flux = passed @ tables.band_of_node + _line_flux(tables, z, mass, logzsol, dust2, dust1, gas_logu)
    return flux.reshape(*shape, -1)


def _line_flux(
    tables: BandTables,
    z: Tensor,
    mass: Tensor,
    logzsol: Tensor,
    dust2: Tensor,
    dust1: Tensor,
    gas_logu: Tensor,
) -> Float[Tensor, "n band"]:
    """Emission lines: their luminosity is interpolated in its logarithm, as `sed` does it."""
    (i, dz), (j, du) = _bracket(tables.line_logz, logzsol), _bracket(tables.line_logu, gas_logu)
    table = tables.line_loglum
    dz, du = dz[:, None, None], du[:, None, None]
    loglum = (1 - dz) * ((1 - du) * table[i, j] + du * table[i, j + 1])
    loglum = loglum + dz * ((1 - du) * table[i + 1, j] + du * table[i + 1, j + 1])
    n = loglum.shape[1]
    luminosity = mass[:, :n, None] * torch.exp(_LN10 * loglum)
    in_cloud = tables.young[:n, None] > 0
    cloud = torch.exp(-dust1[:, None] * tables.line_curve.cloud)[:, None]
    seen = torch.where(in_cloud, luminosity * cloud, luminosity).sum(1)
    seen = seen * torch.exp(-dust2[:, None] * tables.line_curve.diffuse)
    return torch.einsum("nl,nbl->nb", seen, tables.line_weight[z])
