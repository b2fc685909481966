"""Which compiled programs later fits share."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np
import pytest

import hbm.programs
from hbm.config import ModelConfig
from hbm.model import GalaxyData
from hbm.programs import Programs, programs
from hbm.sampler import SamplerConfig

CONFIG, SAMPLER = ModelConfig(n_zred=5), SamplerConfig()


class Size:
    """A term of the user's."""

    name = "size"

    def galaxy(self, galaxy_id: str) -> np.ndarray:
        del galaxy_id
        return np.zeros(())

    def log_prob(self, state: Any, data: Any) -> Any:
        del state, data
        return 0.0


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that do nothing, each a new object."""
    monkeypatch.setattr(hbm.programs, "_make", lambda *_: Programs(object(), print))  # type: ignore[arg-type]
    monkeypatch.setattr(hbm.programs, "_kept", type(hbm.programs._kept)())


@pytest.mark.usefixtures("make")
def test_fits_that_are_alike_share_programs(galaxy: GalaxyData) -> None:
    other = eqx.tree_at(lambda g: g.flux, galaxy, 2 * galaxy.flux)  # type: ignore[operator]
    first = programs(CONFIG, SAMPLER, galaxy, "nuts", ())
    assert programs(CONFIG, SAMPLER, other, "nuts", ()) is first
    assert programs(dataclasses.replace(CONFIG, outliers=True), SAMPLER, galaxy, "nuts", ()) is not first
    assert programs(CONFIG, SAMPLER._replace(n_jump=3), galaxy, "nuts", ()) is not first
    assert programs(CONFIG, SAMPLER, galaxy, "aies", ()) is not first
    fewer = eqx.tree_at(lambda g: g.flux, galaxy, np.asarray(galaxy.flux)[:3])
    assert programs(CONFIG, SAMPLER, fewer, "nuts", ()) is not first


@pytest.mark.usefixtures("make")
def test_programs_with_terms_of_the_users_are_not_kept(galaxy: GalaxyData) -> None:
    """The term may have been changed in between."""
    terms = (Size(),)
    assert programs(CONFIG, SAMPLER, galaxy, "nuts", terms) is not programs(
        CONFIG, SAMPLER, galaxy, "nuts", terms
    )


@pytest.mark.usefixtures("make")
def test_the_oldest_programs_are_let_go(galaxy: GalaxyData) -> None:
    def of(n_draw: int) -> object:
        return programs(CONFIG, SAMPLER._replace(n_draw=n_draw), galaxy, "nuts", ())

    first, second = of(1), of(2)
    assert of(1) is first
    for n_draw in (3, 4, 5):
        of(n_draw)
    assert of(1) is first  # used after the second
    assert of(2) is not second
