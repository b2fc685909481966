"""Are posteriors from photometry, from images and from both calibrated? `hbm calibrate` and its report.

`mock` simulates galaxies with photometry and images of the same properties, and may tell the model something
wrong; `run` fits them in pieces that an interrupted run finds again (`pieces`, `fits`, `importance`);
`coverage` counts how often truths lie where posteriors say; `report` writes numbers and figures.
"""
