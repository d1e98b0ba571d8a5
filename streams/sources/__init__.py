"""Foreign records become events of our contracts: importers, generated day, replay."""
