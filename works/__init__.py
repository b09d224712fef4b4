"""All that does not know Tornado: slices, pictures, queues, events and files. Handed values, never settings."""
