"""The galaxy of `hbm demo`: simulated photometry and image of one theta, into hbm/data/demo_joint.h5.

Of `--n` simulated galaxies that form stars and are measured well (fluxes to 5 %, an image deeper than the
median) it takes the dustiest with `dust2` below 1.8: what photometry most easily mistakes for an old one.
What is written: its image's statistics, fluxes, picture and true properties.

    python -m benchmarks.demo_galaxy [--n 200] [--out FILE]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

import hbm
from benchmarks._joint import mock_survey
from generative.checkpoint import write_atomically
from generative.conditions import Observing
from generative.display import to_rgb
from generative.release import load, model_path
from generative.stamps import Stamps
from generative.summaries import compile_file
from hbm.catalog_images import image_config
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.image import load_image_likelihood
from sed.io import load_grid

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
SEED = 20
SHOWN = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--out", type=Path, default=Path(hbm.__file__).parent / "data" / "demo_joint.h5")
    args = parser.parse_args(argv)
    model = load(args.model)
    assert model.instrument is not None  # noqa: S101
    config = image_config(ModelConfig(), load_image_likelihood(args.model))
    mock = mock_survey(DataBuilder(load_grid(), config, BANDS), model, args.n, SEED)
    forms = (mock.truth["logssfr"] > -10.5) & (mock.truth["dust2"] < 1.8)
    forms &= np.median(mock.catalog.flux / mock.catalog.flux_err, axis=1) > 20
    deep = mock.stamps.u.snr[:, model.instrument.reference_band].numpy()
    forms &= deep > np.median(deep)
    row = int(np.argmax(np.where(forms, mock.truth["dust2"], -np.inf)))
    one = slice(row, row + 1)
    s = mock.stamps
    stamp = Stamps(
        np.asarray(["both"]), s.image[one], s.noise[one], s.observed[one], Observing(*(u[one] for u in s.u))
    )
    temporary = args.out.with_name("demo_joint.making.h5")
    compile_file(model, model_path(args.model), stamp, temporary, overwrite=True)
    with h5py.File(temporary, "a") as file:
        demo = file.create_group("demo")
        demo["flux"], demo["flux_err"] = mock.catalog.flux[row], mock.catalog.flux_err[row]
        demo["filter"] = np.asarray(mock.catalog.filter_names, dtype=h5py.string_dtype())
        picture = to_rgb(stamp.image / stamp.noise[..., None, None], model.instrument)[0]
        demo["picture"] = np.round(255 * picture).astype(np.uint8)
        truth = demo.create_group("truth")
        for name in SHOWN:
            truth.attrs[name] = float(mock.truth[name][row])
        demo.attrs["note"] = (
            f"Simulated; of {args.n} draws from the prior the dustiest (`dust2` below 1.8) with a deep image "
            "and fluxes to 5 % that turns more than 10^-10.5 of its mass into stars a year."
        )
    write_atomically(args.out, temporary.read_bytes())
    temporary.unlink()
    with h5py.File(args.out) as file:
        p = float(file["p_typical"][0])
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB, p_typical {p:.2f}")
    for name in SHOWN:
        print(f"{name:10s} {mock.truth[name][row]:.3f}")


if __name__ == "__main__":
    main()
