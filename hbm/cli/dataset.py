"""``hbm dataset``: stamps with properties, for training."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, stdout


def dataset(
    stamps: Annotated[Path, typer.Argument(help="HDF5 file of stamps, of `hbm image`.")],
    catalog: Annotated[Path, typer.Option(help="Catalogue of properties.")],
    kind: Annotated[str, typer.Option(help="mpa-jhu, gswlc, fastspecfit, provabgs or 3dhst.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for train.h5, validation.h5, test.h5.")],
    info: Annotated[Path | None, typer.Option(help="galSpecInfo, for mpa-jhu.")] = None,
    by: Annotated[str, typer.Option(help="Match by id or position.")] = "position",
    radius: Annotated[float, typer.Option(help="arcsec within which positions match.")] = 1.5,
    cell: Annotated[float, typer.Option(help="Side of the sky's cells, degrees.")] = 3.0,
    validation: Annotated[float, typer.Option(help="Part for validation.", min=0, max=0.5)] = 0.1,
    test: Annotated[float, typer.Option(help="Part for tests.", min=0, max=0.5)] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
) -> None:
    """Join stamps with a catalogue of properties and split them by region of the sky.

    `hbm dataset stamps.h5 --catalog galSpecExtra.fits --info galSpecInfo.fits --kind mpa-jhu --out training`

    Masses, IMF and codes for "missing" are brought to this package's conventions, and for mpa-jhu and
    fastspecfit the Hubble constant.
    `hbm train` reads the files (`source = "hdf5"`).
    """
    with plain_errors():
        import numpy as np
        from astropy.cosmology import Planck18  # that of `generative.conditions`

        from generative.conditions import RANGE
        from generative.ingest.store import write_columns
        from hbm.properties.catalogs import read_properties
        from hbm.properties.dataset import SPLITS, join, read_stamps, split_by_sky, split_columns

        if by not in ("id", "position"):
            raise ValueError(f"`by` must be id or position, got {by!r}.")
        content = read_stamps(stamps)
        table = read_properties(catalog, kind, info=info)
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in content["object_id"]]
        ra, dec, zred = (np.asarray(content[name], float) for name in ("ra", "dec", "zred"))
        joined = join(
            names, ra, dec, zred, table, by="id" if by == "id" else "position", radius=radius, ranges=RANGE,
            age_gyr=lambda z: np.asarray(Planck18.age(z).to_value("Gyr")),
        )  # fmt: skip
        fractions = (1 - validation - test, validation, test)
        split = split_by_sky(ra[joined.rows], dec[joined.rows], size=cell, fractions=fractions, seed=seed)
        console = stdout()
        for k, name in enumerate(SPLITS):
            if (split == k).any():
                note = {
                    "catalogue": table.source,
                    "split": name,
                    "cell_degrees": f"{cell:g}",
                    "seed": str(seed),
                }
                write_columns(split_columns(content, joined, split, k), out / f"{name}.h5", note)
            console.print(f"{int((split == k).sum())} galaxies in {escape(str(out / name))}.h5")
        console.print(
            f"left out: {joined.n_unmatched} not in the catalogue, {joined.n_redshift} of another redshift "
            "there, "
            f"{joined.n_unlabelled} without a usable property"
        )
        for name, count in joined.n_outside.items():
            if count:
                console.print(
                    f"[yellow]{name}[/]: {count} outside of the range of training, taken as not known"
                )
        for text in table.notes:
            console.print(escape(text), soft_wrap=True)
