"""Train an image model on your own survey.

Question: your galaxies have something that the shipped model was never shown: bright nuclei. Does it know
that it does not know them, and can it learn them?
Data: a stand-in for a survey: simulated SDSS stamps with a point source in the middle, three tenths of the
light, written as `hbm image` and `hbm dataset` write yours; some properties are known, others are not.
New: the HDF5 layout of training sets, a configuration in TOML that starts from the shipped model
(`start_from`), training that can be interrupted and resumed, drawing from the model, the domain check.
Run time: fifteen minutes on two cores (`--steps` for more or less); `--smoke`: half a minute.
Expected: nuclei are brighter in the survey than in what the shipped model draws; after training the drawn
ones come near. The loss on held-out images falls. Of a survey the likelihood is not refitted: properties go
with redshift and brightness there (docs/images.md), and the new model is for drawing.

    python examples/05_train_on_your_survey.py [--smoke] [--out FOLDER] [--steps 250]
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from generative.checkpoint import Model
from generative.commands import Training
from generative.conditions import THETA, Observing, draw_observing, draw_theta
from generative.display import to_rgb
from generative.draw import draw
from generative.ingest.store import write_columns
from generative.instrument import SDSS_GRIZ as CAMERA
from generative.release import load
from generative.simulator.render import Simulator
from generative.simulator.stars import band_tables
from generative.stamps import Stamps
from generative.summaries import summarize
from hbm.plots.style import CHAINS, style

NUCLEUS = 0.3
"""Of the light."""

CONFIG = """\
[data]
source = "hdf5"
instrument = "sdss-griz"
path = "survey.h5"

[network]           # that of the model it starts from
n_basis = 24
patch = 4
channels = [64, 96]

[training]
start_from = "sdss-griz"
steps = {steps}
batch = {batch}
levels = 3
lr = 5e-4
warmup = 20
ema = 0.98
contrast = 0        # see docs/images.md
looks = 1.0
validate_every = {every}
n_validate = {n_validate}
save_every = 50
refit_images = 0
"""


class Survey:
    """Stand-in: images, properties, conditions."""

    def __init__(self, n: int, seed: int) -> None:
        simulator = Simulator(CAMERA, tables=band_tables(CAMERA, [0.08, 0.12, 0.16]))
        generator = torch.Generator().manual_seed(seed)
        index = torch.randint(3, (n,), generator=generator)
        zred = simulator.tables.zred[index].float()
        self.theta = draw_theta(n, zred, generator)
        self.u = draw_observing(n, zred, CAMERA, generator)
        taken = simulator.observe(self.theta, index, self.u, generator)
        extra = NUCLEUS / (1 - NUCLEUS) * taken.flux
        self.image = taken.image + extra[..., None, None] * point_source(self.u.fwhm)
        self.flux, self.noise = taken.flux + extra, taken.noise
        self.u = self.u._replace(snr=self.flux / self.noise)

    def columns(self) -> dict[str, np.ndarray]:
        """As the files that `hbm dataset` writes; here the metallicity is not known, nor half of the ages."""
        theta = self.theta.clone()
        theta[:, THETA.index("logzsol")] = torch.nan
        theta[::2, THETA.index("mwa")] = torch.nan
        n = len(theta)
        return {
            "object_id": np.array([f"s{i}".encode() for i in range(n)]),
            "image_array": (1e9 * self.image).numpy(),
            "image_ivar": (1e9 * self.noise[..., None, None]).expand_as(self.image).pow(-2).numpy(),
            "image_band": np.array([[band.encode() for band in CAMERA.bands]] * n),
            "image_psf_fwhm": self.u.fwhm.numpy(), "image_scale": np.full((n, 4), CAMERA.pixel_scale),
            "flux": (1e9 * self.flux).numpy(), "zred": self.u.zred.numpy(),
            **{name: theta[:, i].numpy() for i, name in enumerate(THETA)},
        }  # fmt: skip

    def stamps(self, n: int) -> Stamps:
        """The first ones, as `hbm compile` takes them."""
        image = self.image[:n]
        names = np.array([f"s{i}" for i in range(n)])
        u = Observing(*(item[:n] for item in self.u))
        return Stamps(names, image, self.noise[:n], torch.ones_like(image, dtype=torch.bool), u)


def point_source(fwhm: Tensor) -> Tensor:
    """Gaussian stars of flux 1 in the middle of the stamps."""
    x = (torch.arange(CAMERA.n_pixel) - (CAMERA.n_pixel - 1) / 2) * CAMERA.pixel_scale
    width = (fwhm / 2.3548)[..., None, None]
    star = torch.exp(-0.5 * (x[:, None] ** 2 + x[None] ** 2) / width**2)
    return star / star.sum(dim=(-2, -1), keepdim=True)


def nucleus(image: Tensor) -> np.ndarray:
    """Part of the light within two pixels of the middle, in the first band."""
    side = image.shape[-1]
    x = torch.arange(side) - (side - 1) / 2
    inside = x[:, None] ** 2 + x[None] ** 2 < 4.0
    return (image[:, 0] * inside).sum(dim=(1, 2)).numpy() / image[:, 0].sum(dim=(1, 2)).numpy()


def drawn(model: Model, survey: Survey, rows: slice, n_step: int) -> Tensor:
    """Images of the model with properties and conditions of the survey's galaxies, in units of the noise."""
    u = Observing(*(item[rows] for item in survey.u))
    return draw(model, survey.theta[rows], u, seed=3, n_step=n_step).image


def figure_of(rows: dict[str, Tensor], log: list[dict[str, float]], parts: dict[str, np.ndarray]) -> Figure:
    """Pictures of the survey and of both models; the light in the nucleus; the loss."""
    n = min(8, *(len(images) for images in rows.values()))
    with style():
        figure = Figure(figsize=(12, 8.4), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
        panels = top.subplots(len(rows), n, squeeze=False)
        for line, (title, images) in zip(panels, rows.items(), strict=True):
            for axes, picture in zip(line, to_rgb(images[:n], CAMERA), strict=True):
                axes.imshow(picture, origin="lower", interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
            line[0].set_ylabel(title, fontsize=12)
        left, right = bottom.subplots(1, 2)
        for colour, (title, values) in zip(CHAINS, parts.items(), strict=False):
            left.plot(
                np.sort(values), (np.arange(len(values)) + 0.5) / len(values), color=colour, label=title
            )
        left.set_xlabel("part of the light within two pixels, g")
        left.set_ylabel("part of the galaxies below")
        left.legend(loc="lower right")
        step = [row["step"] for row in log]
        right.plot(step, [row["held_denoise"] for row in log], "-o", color=CHAINS[0])
        right.set_xlabel("steps")
        right.set_ylabel("loss on held-out images")
    return figure


def main() -> None:
    """Write a survey, train on it, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps, a few images")
    parser.add_argument("--out", type=Path, default=Path("train_on_your_survey"))
    parser.add_argument("--steps", type=int, default=250)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    n, n_draw, n_step = (48, 2, 6) if args.smoke else (1500, 40, 24)
    steps = 2 if args.smoke else args.steps
    survey, held = Survey(n, seed=1), Survey(n_draw, seed=2)
    write_columns(
        survey.columns(), args.out / "survey.h5", {"instrument": "sdss-griz", "unit": "nanomaggies"}
    )
    text = CONFIG.format(
        steps=steps,
        batch=4 if args.smoke else 24,
        every=max(1, steps // 10),
        n_validate=4 if args.smoke else 96,
    )
    (args.out / "survey.toml").write_text(text)
    # As `hbm train survey.toml --out run --resume`.
    training = Training(
        str(args.out / "survey.toml"), args.out / "run", resume=True, device="cpu", steps=None
    )
    for note in training.notes:
        print(f"Note: {note}")

    def tell(result: object) -> None:
        if result.step % max(1, steps // 10) == 0:
            print(f"  step {result.step} of {steps}, loss {result.denoise:.4f}", flush=True)

    path = training(None, tell, lambda *_: None)
    before, after = load("sdss-griz"), load(path)
    rows = slice(0, n_draw)
    images = {
        "survey": held.image / held.noise[..., None, None],
        "shipped": drawn(before, held, rows, n_step),
        "trained": drawn(after, held, rows, n_step),
    }
    with (args.out / "run" / "log.csv").open() as file:
        log = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    log = [row for row in log if np.isfinite(row["held_denoise"])]
    parts = {name: nucleus(image) for name, image in images.items()}
    figure_of(images, log, parts).savefig(args.out / "survey.png", dpi=100)
    n_check = 2 if args.smoke else 24
    p = summarize(before, held.stamps(n_check), max_draw=8).p_typical
    print(f"Model: {path}\nFigure: {args.out / 'survey.png'}")
    print(
        "Light within two pixels, median: " + ", ".join(f"{k} {np.median(v):.3f}" for k, v in parts.items())
    )
    gap = {name: abs(np.median(parts[name]) - np.median(parts["survey"])) for name in ("shipped", "trained")}
    closed = 1 - gap["trained"] / gap["shipped"]
    print(
        f"Conclusion: of {n_check} survey images {int((p < 0.01).sum())} are unlike all that the "
        f"shipped model knows (p below 0.01). Training closes {closed:.0%} of the gap in the light of the "
        f"nucleus; the loss on held-out images goes from {log[0]['held_denoise']:.4f} to "
        f"{log[-1]['held_denoise']:.4f}."
    )


if __name__ == "__main__":
    main()
