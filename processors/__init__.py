"""Pure: columns and values in, columns and values out; no clock, random, environment, log or network."""
