"""How good a model is: morphology, losses, memorisation; `report.evaluate` does all."""
