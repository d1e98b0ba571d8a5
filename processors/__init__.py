"""Pure: columns and values in and out; no clock, random, environment, log or network."""
