"""The event store in Redis, shared by any number of server processes."""
