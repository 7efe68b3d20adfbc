"""`python -m vitfm.data prepare`: any source as a TFDS data set in ArrayRecord.

plan.py      what is to be written, decided once and kept beside the shards: order, shards, kinds of features
kinds.py     of which kind a feature is, by the values that are seen of it, and a value as TFDS stores it
records.py   an example as a record, or why it is none
shard.py     one shard, written whole or not at all: the unit of work, and the same bytes wherever it is done
local.py     all shards by processes of this machine; beam.py: by a runner of Apache Beam
info.py      what TFDS reads first, written when all shards are there
command.py   the command line
"""
