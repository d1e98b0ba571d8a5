"""Kafka and Faust: decode, call, keep state, forward."""
