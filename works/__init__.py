"""Everything that does not use Tornado: pictures, queues, events, files, chat, video and jobs.

This code never reads the configuration. It receives its settings as values.
"""
