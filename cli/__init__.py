"""The command line beside the server itself: `python server.py token | job | worker | scheduler`."""
