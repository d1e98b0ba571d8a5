"""The embedded Kafka and Valkey of a machine that has neither."""
