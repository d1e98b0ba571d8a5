"""The wallboard: what is in Redis, as a live page and as JSON. Needs neither Kafka nor a worker."""
