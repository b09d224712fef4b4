"""The event store in Redis, which any number of server processes may share."""
