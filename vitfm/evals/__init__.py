"""What is measured of a model: one file an evaluator; `base.py` is the contract."""
