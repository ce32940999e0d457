"""How scores grow with the data: plain training beside the small-data recipe. See ``docs/small_data.md``."""
