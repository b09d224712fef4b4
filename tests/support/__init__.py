"""Code that tests share: servers and clients, pictures, clips, and programs that run next to a server."""
