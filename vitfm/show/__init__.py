"""Pages about data: what a model sees of it, what is in it, and which images are nearly the same."""
