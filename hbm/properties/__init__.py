"""Properties of galaxies from published catalogues, and their images: training sets for image models.

``conventions`` has what the catalogues disagree on (IMF, mass formed or surviving, Hubble constant);
``catalogs`` a reader for each; ``crossmatch`` finds their galaxies among images; ``dataset`` joins, splits.
"""

from hbm.properties.catalogs import CATALOGS as CATALOGS
from hbm.properties.catalogs import PropertyTable as PropertyTable
from hbm.properties.catalogs import read_properties as read_properties
