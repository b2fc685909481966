r"""Domain check: whether an observed image is like those that the model was trained on.

The denoising loss without properties, at each node of the likelihood's integral, says how well the model
knows an image at that noise level. Its logarithm is regressed on the conditions of observation (quadratic)
over held-out simulations; an image's residuals, in units of their covariance, give a squared distance, and
its rank among those of further simulations a p-value. A small one means: unlike anything the model knows.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from generative.network import Coefficients
from generative.statistics import ImageStatistics

TYPICAL_SEED = 0
"""The losses of all images are of the same pair of noise draws, the first of this seed: what is particular to
it is then the same in the reference."""


class TypicalReference(NamedTuple):
    """What held-out simulations have."""

    slope: Float[Tensor, "term node"]
    """Of the log loss, by terms of `_terms`."""
    inverse: Float[Tensor, "node node"]
    """Inverse covariance of the residuals."""
    distance: Float[Tensor, " image"]
    """Squared distances of simulations that the rest was not fitted to, rising."""

    def p_value(
        self, loss: Float[Tensor, "batch node"], u: Float[Tensor, "batch column"]
    ) -> Float[Tensor, " batch"]:
        """Part of the simulations that are as far out; at least 1 / (simulations + 1)."""
        found = self._distance(loss, u)
        below = torch.searchsorted(self.distance, found)
        return (len(self.distance) - below + 1) / (len(self.distance) + 1)

    def _distance(self, loss: Tensor, u: Tensor) -> Tensor:
        residual = torch.log(loss.double()) - _terms(u) @ self.slope.double()
        return ((residual @ self.inverse.double()) * residual).sum(1).to(self.distance.dtype)


def _terms(u: Float[Tensor, "batch column"]) -> Float[Tensor, "batch term"]:
    """One, conditions, and their products."""
    u = u.double()
    row, column = torch.triu_indices(u.shape[1], u.shape[1])
    return torch.cat([torch.ones_like(u[:, :1]), u, u[:, row] * u[:, column]], dim=1)


@torch.no_grad()
def unconditional_loss(
    coefficients: Coefficients,
    statistics: ImageStatistics,
    u: Float[Tensor, "batch column"],
    n_observed: Float[Tensor, " batch"],
    nodes: Float[Tensor, " node"],
) -> Float[Tensor, "batch node"]:
    """Squared residual per observed pixel at each node, of the denoiser that is told no properties.

    Parameters
    ----------
    coefficients
        The denoiser's own: refitted ones do not know missing properties.
    """
    n, n_theta = len(u), coefficients.config.n_theta
    unknown = torch.full((n, n_theta), torch.nan, device=u.device)
    feature = coefficients.feature(unknown, u)
    c = torch.einsum("kjh,nh->nkj", coefficients.mixed(nodes), feature)
    quadratic = torch.einsum("nki,nkij,nkj->nk", c, statistics.G, c)
    residual = statistics.square - 2 * (c * statistics.b).sum(2) + quadratic
    return residual / n_observed[:, None]


def fewest_simulations(n_column: int, n_node: int) -> int:
    """Simulations that a reference needs at least: four for each number that is fitted, or 100."""
    return max(100, 4 * (1 + n_column + n_column * (n_column + 1) // 2 + n_node))


def fit_reference(loss: Float[Tensor, "batch node"], u: Float[Tensor, "batch column"]) -> TypicalReference:
    """Reference from losses of held-out simulations: half fits, half ranks.

    Raises
    ------
    ValueError
        If there are too few simulations for the terms of the regression.
    """
    terms = _terms(u)
    half, least = len(loss) // 2, fewest_simulations(u.shape[1], loss.shape[1])
    if len(loss) < least:
        raise ValueError(f"`loss` must hold at least {least} simulations, got {len(loss)}.")
    target = torch.log(loss.double())
    # A ridge far below the noise: some products of conditions are constant.
    left = terms[:half].T @ terms[:half] + 1e-6 * torch.eye(terms.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(left, terms[:half].T @ target[:half])
    residual = target[:half] - terms[:half] @ slope
    covariance = residual.T @ residual / (half - terms.shape[1])
    covariance = covariance + 1e-10 * torch.eye(len(covariance), dtype=torch.float64)
    reference = TypicalReference(slope, torch.linalg.inv(covariance), torch.zeros(1))
    distance = reference._distance(loss[half:], u[half:])
    return TypicalReference(slope.float(), reference.inverse.float(), torch.sort(distance).values.float())
