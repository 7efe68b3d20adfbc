"""One file an architecture of other libraries: their configuration to and from ours, and what they call our arrays."""
