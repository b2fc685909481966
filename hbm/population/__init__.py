"""Populations: scaling relations of galaxies, and what many galaxies' posteriors say of them."""

from hbm.population.draws import PosteriorDraws as PosteriorDraws
from hbm.population.draws import gather_draws as gather_draws
from hbm.population.fit import fit_population as fit_population
from hbm.population.gibbs import GibbsConfig as GibbsConfig
from hbm.population.importance import ImportanceConfig as ImportanceConfig
from hbm.population.joint import JointConfig as JointConfig
from hbm.population.relations import DustRelation as DustRelation
from hbm.population.relations import IonizationRelation as IonizationRelation
from hbm.population.relations import MassMetallicity as MassMetallicity
from hbm.population.relations import Population as Population
from hbm.population.relations import Relation as Relation
from hbm.population.relations import Schechter as Schechter
from hbm.population.relations import SplineMassFunction as SplineMassFunction
from hbm.population.relations import StarFormingSequence as StarFormingSequence
from hbm.population.relations import default_population as default_population
from hbm.population.result import PopulationResult as PopulationResult
from hbm.population.result import load_population as load_population
from hbm.population.result import save_population as save_population
from hbm.population.reweight import ReweightConfig as ReweightConfig
from hbm.population.selection import Selection as Selection
from hbm.population.selection import selection_by as selection_by
from hbm.population.survey import GalaxyPoint as GalaxyPoint
from hbm.population.survey import Survey as Survey
from hbm.population.survey import gather_survey as gather_survey
from hbm.population.survey import make_survey as make_survey
