"""Where arrays live: the device mesh and the rules that place parameters on it."""
