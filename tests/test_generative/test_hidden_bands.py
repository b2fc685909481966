"""A band that was not observed: less is learnt, and what is learnt stays true."""

import math

import numpy as np
import pytest
import torch

import generative
from generative.conditions import Observing, theta_columns
from generative.data import proposal_columns
from generative.simulator.render import Simulator
from generative.stamps import Stamps
from generative.statistics import Corrected, information_gain
from generative.summaries import unpacked

N = 200


@pytest.mark.slow
def test_hiding_bands_widens_the_posterior_without_bias() -> None:
    """The shipped model on simulations, with all bands and with two of four."""
    model = generative.load("sdss-griz")
    assert model.instrument is not None
    assert model.coefficients is not None
    s = Simulator(model.instrument).draw(N, torch.Generator().manual_seed(10**9 + 1))
    whole = torch.ones_like(s.image, dtype=torch.bool)
    hidden = whole.clone()
    hidden[:, :2] = False
    snr = s.u.snr.clone()
    snr[:, :2] = 0.0
    nodes, weight = model.nodes
    proposal = proposal_columns(2048, "cpu")
    gains: dict[bool, list[torch.Tensor]] = {}
    for observed, u in ((whole, s.u), (hidden, Observing(s.u.zred, s.u.fwhm, snr))):
        stamps = Stamps(np.arange(N).astype(str), s.image, s.noise, observed, u)
        found = generative.summarize(model, stamps, target_error=9.0, max_draw=8)
        G, b, conditions = (torch.as_tensor(x) for x in (found.G, found.b, found.u))
        theta = theta_columns(s.theta, s.u.zred)
        for is_corrected in (False, True):
            ratio = None
            if is_corrected:
                if model.correction is None:
                    continue
                ratio = Corrected(model.correction, torch.as_tensor(found.numbers))
            gain, rank, _ = information_gain(
                model.coefficients,
                unpacked(G),
                b,
                theta,
                conditions,
                proposal,
                nodes,
                weight,
                corrected=ratio,
            )
            gains.setdefault(is_corrected, []).append(gain)
            # The mean rank of the truth is a half if nothing is biased, 1 / sqrt(12 N) by chance.
            off = (rank.mean(0) - 0.5).abs() * math.sqrt(12 * N)
            assert float(off.max()) < 3.5, (is_corrected, off)
    for all_bands, two_bands in gains.values():
        assert float(two_bands.mean()) < float(all_bands.mean()) - 0.1
        assert float(two_bands.mean()) > 0.2
