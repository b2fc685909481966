"""What a TOML file of ``hbm population`` asks for, made: relations, galaxies, selection."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import astropy.cosmology
import numpy as np
from jaxtyping import Float

from hbm.columns import suggest
from hbm.config import InterimPrior, ModelConfig
from hbm.galaxies import cosmology_by_name
from hbm.population.detection import magnitude_limit, property_limit
from hbm.population.draws import PROPERTIES, PosteriorDraws, gather_draws
from hbm.population.relations import (
    DustRelation,
    IonizationRelation,
    MassMetallicity,
    Population,
    Relation,
    Schechter,
    SplineMassFunction,
    StarFormingSequence,
    default_population,
)
from hbm.population.selection import Selection, selection_by
from hbm.population.settings import PopulationSettings, SelectionSettings, load_object
from hbm.population.survey import Survey, gather_survey
from hbm.results import FitResult
from sed.io import load_grid

RELATIONS: dict[str, Any] = {
    "schechter": Schechter,
    "spline_mass_function": SplineMassFunction,
    "star_forming_sequence": StarFormingSequence,
    "mass_metallicity": MassMetallicity,
    "dust": DustRelation,
    "ionization": IonizationRelation,
}
"""Relations by their name in the file; ``"module:Class"`` names one of your own."""


def population_of(relations: Mapping[str, Mapping[str, Any]] | None, prior: InterimPrior) -> Population:
    """Relations of the table ``[relations]``, over the ranges of the interim prior; all five without it.

    Raises
    ------
    ValueError
        For an unknown relation or option, or a value that an option cannot have.
    """
    defaults = {relation.property: relation for relation in default_population(prior).relations}
    if relations is None:
        return Population(tuple(defaults.values()))
    made = []
    for name, options in relations.items():
        cls: Any = load_object(name, "relations") if ":" in name else RELATIONS.get(name)
        if cls is None:
            raise ValueError(
                f"[relations] must name some of {', '.join(RELATIONS)}, or 'module:Class', got "
                f"`{name}`.{suggest(name, RELATIONS)}"
            )
        known = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
        for key, value in options.items():
            if key not in known:
                raise ValueError(
                    f"[relations.{name}] has the unknown key `{key}`; known are {', '.join(sorted(known))}."
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"`{key}` in [relations.{name}] must be a number, got {value!r}.")
        # The shipped relations end where the interim prior does, unless they are told otherwise.
        ends = defaults[cls.property] if name in RELATIONS else None
        given = {key: getattr(ends, key) for key in ("low", "high") if key in known and hasattr(ends, key)}
        relation = cls(**given | dict(options))
        if not isinstance(relation, Relation):
            raise ValueError(f"`relations` {name!r} must be a relation as in `hbm.population.relations`.")
        made.append(relation)
    made.sort(key=lambda relation: PROPERTIES.index(relation.property))
    return Population(tuple(made))


def galaxies_of(settings: PopulationSettings, results: Sequence[FitResult]) -> PosteriorDraws | Survey:
    """Stored draws, or the survey where galaxies are to be sampled; errors as of what makes them."""
    n_draw = settings.sampler.draws_per_galaxy
    if settings.sampler.method == "reweight":
        return gather_draws(results, n_draw=n_draw)
    catalog = None
    if settings.catalog is not None:
        from hbm.catalog import read_catalog
        from hbm.catalog_images import with_images
        from hbm.image import model_of

        given, folder = settings.catalog, settings.folder
        columns = None if given.columns is None else folder / given.columns
        whole = read_catalog(folder / given.path, preset=given.preset, columns=columns, on_bad="drop")
        images = folder / given.images
        model = model_of(images) if given.image_model is None else given.image_model
        model = str(folder / model) if (folder / model).is_file() else model
        catalog = with_images(whole, images, model, insist=given.insist, correction=given.correction)
    shared = {} if settings.calibration is None else dataclasses.asdict(settings.calibration)
    grid = None if settings.grid is None else settings.folder / settings.grid
    return gather_survey(results, catalog, grid=grid, n_draw=n_draw, **shared)


def selection_of(
    settings: PopulationSettings,
    results: Sequence[FitResult],
    config: ModelConfig,
    population: Population,
) -> Selection | None:
    """Selection of the table ``[selection]``; None without it.

    Without ``zred_low`` and ``zred_high`` the redshifts of the measured galaxies stand for those of all. A
    limit in magnitude does not allow this: it has removed more of the distant ones.

    Raises
    ------
    ValueError
        If a limit in magnitude comes without them, or a galaxy is outside of them.
    """
    chosen = settings.selection
    if chosen is None:
        return None
    zred = np.array([result.zred for result in results])
    if chosen.band is not None and chosen.zred_low is None:
        raise ValueError(
            "`zred_low` and `zred_high` must be given in [selection] with a limit in magnitude: measured "
            "galaxies are nearer than all, and their redshifts cannot stand for those of all."
        )
    if chosen.zred_low is not None and chosen.zred_high is not None:
        outside = (zred < chosen.zred_low) | (zred > chosen.zred_high)
        if outside.any():
            first = results[int(np.argmax(outside))].galaxy_id
            raise ValueError(
                f"`results` must be between `zred_low` = {chosen.zred_low} and `zred_high` = "
                f"{chosen.zred_high} of [selection], but {int(outside.sum())} are not, such as {first}. "
                "Leave them out, or widen it."
            )
        zred = volume_redshifts(chosen.zred_low, chosen.zred_high, config.cosmology, settings.sampler.seed)
    age = np.asarray(cosmology_by_name(config.cosmology).age_np(zred))
    detection = _detection(chosen, settings, config, (float(zred.min()), float(zred.max())))
    depends = (chosen.property,) if chosen.property in population.properties else None
    return selection_by(
        detection, age, config.prior, population, depends=depends, n_draw=chosen.draws,
        seed=settings.sampler.seed,
    )  # fmt: skip


def _detection(
    chosen: SelectionSettings, settings: PopulationSettings, config: ModelConfig, zred: tuple[float, float]
) -> Any:
    if chosen.function is not None:
        return load_object(chosen.function, "function")
    limit, scatter = float(chosen.limit or 0.0), float(chosen.scatter or 0.0)
    if chosen.property is not None:
        return property_limit(chosen.property, limit, scatter)
    grid = load_grid(None if settings.grid is None else settings.folder / settings.grid)
    return magnitude_limit(str(chosen.band), limit, scatter, zred, config, grid, seed=settings.sampler.seed)


def volume_redshifts(
    low: float, high: float, cosmology: str, seed: int, n: int = 2000
) -> Float[np.ndarray, " draw"]:
    """Redshifts of galaxies of constant density in comoving volume.

    Raises
    ------
    ValueError
        If the redshifts are not positive and in order.
    """
    if not 0 < low < high:
        raise ValueError(
            f"`zred_low` must be above 0 and below `zred_high` in [selection], got {low} and {high}."
        )
    grid = np.linspace(low, high, 200)
    volume = getattr(astropy.cosmology, cosmology).comoving_volume(grid).to_value("Mpc3")
    part = (volume - volume[0]) / (volume[-1] - volume[0])
    return np.interp(np.random.default_rng(seed).random(n), part, grid)
