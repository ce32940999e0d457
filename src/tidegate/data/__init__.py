"""Reading tables: check them, put them on a regular time grid, and derive the calendar."""

from tidegate.data.atomic import atomic_write
from tidegate.data.build import make_panel
from tidegate.data.calendar import calendar_features, calendar_names
from tidegate.data.grid import Grid, parse_frequency
from tidegate.data.panel import Panel, SeriesView
from tidegate.data.table import read_table, write_table

__all__ = [
    "Grid",
    "Panel",
    "SeriesView",
    "atomic_write",
    "calendar_features",
    "calendar_names",
    "make_panel",
    "parse_frequency",
    "read_table",
    "write_table",
]
