"""An image a row of a .csv or .tsv file: `csv:PATH[?image=COLUMN&caption=COLUMN&label=COLUMN]`.

    csv:/data/train.csv                                    columns image or file_name, caption, label
    csv:/data/scans.csv?image=scan&label=finding           named otherwise; a space is written +
    csv:/data/scans.csv#:90%&by=patient                    and the column `patient` keeps scans together

Paths of images are relative to the folder of the file. All columns are features.
"""

from __future__ import annotations

from vitfm.data import rows, tables


def make(rest: str) -> rows.Source:
    """Opens a .csv or .tsv file.

    Raises:
      ConfigError: no such file or column, or none of its images is there.
    """
    return rows.make(tables.Csv, rest)
