"""What is learned and how: one file an objective; `base.py` is the contract."""
